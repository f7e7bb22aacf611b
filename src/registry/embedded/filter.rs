//! Consul's filter expressions (hashicorp/go-bexpr) over the rows of a health answer, as far as a sidecar's subsets need
//! them: `and`, `or`, `not`, `==`, `!=`, `in`, `contains`, `is empty` and their negations; no `matches`.

use serde_json::Value;

/// A parsed expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filter(Expression);

#[derive(Debug, Clone, PartialEq)]
enum Expression {
    Or(Box<Self>, Box<Self>),
    And(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Equal(Vec<String>, String),
    /// The list, the map's keys or the text at the path contains it.
    Contains(Vec<String>, String),
    Empty(Vec<String>),
}

impl Filter {
    /// # Errors
    /// What is wrong, in one sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let tokens = tokens(text)?;
        let mut parser = Parser { tokens: &tokens, at: 0, depth: 0 };
        let expression = parser.or()?;
        match parser.peek() {
            None => Ok(Self(expression)),
            Some(token) => Err(format!("no match found at {token:?}")),
        }
    }

    pub(super) fn matches(&self, row: &Value) -> bool {
        self.0.holds(row)
    }
}

impl Expression {
    fn holds(&self, row: &Value) -> bool {
        match self {
            Self::Or(a, b) => a.holds(row) || b.holds(row),
            Self::And(a, b) => a.holds(row) && b.holds(row),
            Self::Not(one) => !one.holds(row),
            Self::Equal(path, wanted) => match find(row, path) {
                Value::String(text) => text == wanted,
                Value::Number(number) => wanted.parse().is_ok_and(|wanted: serde_json::Number| wanted == *number),
                Value::Bool(_) | Value::Null | Value::Array(_) | Value::Object(_) => false,
            },
            Self::Contains(path, wanted) => match find(row, path) {
                Value::Array(items) => items.iter().any(|item| item == wanted),
                Value::Object(entries) => entries.contains_key(wanted),
                Value::String(text) => text.contains(wanted),
                Value::Null | Value::Number(_) | Value::Bool(_) => false,
            },
            Self::Empty(path) => match find(row, path) {
                Value::Array(items) => items.is_empty(),
                Value::Object(entries) => entries.is_empty(),
                Value::Null => true,
                Value::String(_) | Value::Number(_) | Value::Bool(_) => false,
            },
        }
    }
}

fn find<'a>(row: &'a Value, path: &[String]) -> &'a Value {
    path.iter().fold(row, |value, key| &value[key.as_str()])
}

/// What an expression may look at; below `Meta` is any key.
const SELECTORS: &[&[&str]] = &[
    &["Node", "ID"],
    &["Node", "Node"],
    &["Node", "Address"],
    &["Node", "Datacenter"],
    &["Node", "Meta"],
    &["Service", "ID"],
    &["Service", "Service"],
    &["Service", "Tags"],
    &["Service", "Address"],
    &["Service", "Port"],
    &["Service", "Meta"],
];

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A name, keyword or number.
    Word(String),
    Text(String),
    /// `(`, `)`, `[`, `]`, `.`, `==`, `!=`.
    Sign(&'static str),
}

const SIGNS: &[&str] = &["==", "!=", "(", ")", "[", "]", "."];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            sign.len()
        } else if matches!(first, '"' | '`') {
            let end = rest[1..].find(first).ok_or("Unterminated string literal")? + 1;
            let inner = &rest[1..end];
            tokens.push(Token::Text(if first == '"' { unescaped(inner)? } else { inner.to_owned() }));
            end + 1
        } else {
            let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/');
            let start = usize::from(first == '-');
            let end = rest[start..].find(|c| !word(c)).map_or(rest.len(), |end| start + end);
            if end == start {
                return Err(format!("no match found at {first:?}"));
            }
            tokens.push(Token::Word(rest[..end].to_owned()));
            end
        };
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// Go's `strconv.Unquote`, as far as we send it.
fn unescaped(text: &str) -> Result<String, String> {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        let digits = match letters.next() {
            Some('\\') => {
                plain.push('\\');
                continue;
            }
            Some('x') => 2,
            Some('u') => 4,
            _ => 0,
        };
        let code: String = letters.by_ref().take(digits).collect();
        let found = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
        plain.push(found.filter(|_| code.len() == digits).ok_or("rule \"string\": invalid syntax")?);
    }
    Ok(plain)
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
}

/// Deeper nesting could overflow the stack.
const DEEPEST: usize = 64;

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn take(&mut self) -> Result<Token, String> {
        let token = self.peek().cloned().ok_or("no match found at the end")?;
        self.at += 1;
        Ok(token)
    }

    fn eat(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        self.eat(&Token::Word(word.to_owned()))
    }

    fn or(&mut self) -> Result<Expression, String> {
        let mut left = self.and()?;
        while self.eat_word("or") {
            left = Expression::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expression, String> {
        let mut left = self.one()?;
        while self.eat_word("and") {
            left = Expression::And(Box::new(left), Box::new(self.one()?));
        }
        Ok(left)
    }

    fn one(&mut self) -> Result<Expression, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("the expression is nested too deep".into());
        }
        let one = if self.eat_word("not") {
            Expression::Not(Box::new(self.one()?))
        } else if self.eat(&Token::Sign("(")) {
            let inner = self.or()?;
            if !self.eat(&Token::Sign(")")) {
                return Err("rule \"grouping\": Unmatched parentheses".into());
            }
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(one)
    }

    fn comparison(&mut self) -> Result<Expression, String> {
        // `"v2" in Service.Tags` has the value first, and a bare word may be a value, too.
        let start = self.at;
        if let Ok(value) = self.value()
            && let Some(negated) = self.relation("in")
        {
            return Ok(negate(negated, Expression::Contains(self.selector()?, value)));
        }
        self.at = start;
        let path = self.selector()?;
        if self.eat(&Token::Sign("==")) {
            return Ok(Expression::Equal(path, self.value()?));
        }
        if self.eat(&Token::Sign("!=")) {
            return Ok(negate(true, Expression::Equal(path, self.value()?)));
        }
        if let Some(negated) = self.relation("contains") {
            return Ok(negate(negated, Expression::Contains(path, self.value()?)));
        }
        if self.eat_word("is") {
            let negated = self.eat_word("not");
            if self.eat_word("empty") {
                return Ok(negate(negated, Expression::Empty(path)));
            }
        }
        Err("no match found, expected ==, !=, in, contains or is empty".into())
    }

    /// `word` or `not word`.
    fn relation(&mut self, word: &str) -> Option<bool> {
        let start = self.at;
        let negated = self.eat_word("not");
        if self.eat_word(word) {
            return Some(negated);
        }
        self.at = start;
        None
    }

    fn value(&mut self) -> Result<String, String> {
        match self.take()? {
            Token::Text(text) => Ok(text),
            Token::Word(mut word) => {
                // `1.5`, `a.b`.
                while self.peek() == Some(&Token::Sign("."))
                    && let Some(Token::Word(next)) = self.tokens.get(self.at + 1)
                {
                    word = format!("{word}.{next}");
                    self.at += 2;
                }
                Ok(word)
            }
            Token::Sign(sign) => Err(format!("no match found at {sign}")),
        }
    }

    fn selector(&mut self) -> Result<Vec<String>, String> {
        let mut path = match self.take()? {
            Token::Word(word) => vec![word],
            other => return Err(format!("no match found at {other:?}")),
        };
        loop {
            if self.eat(&Token::Sign(".")) {
                let Token::Word(word) = self.take()? else { return Err("no match found behind a dot".into()) };
                path.push(word);
            } else if self.eat(&Token::Sign("[")) {
                let Token::Text(key) = self.take()? else { return Err("a key in brackets needs quotes".into()) };
                if !self.eat(&Token::Sign("]")) {
                    return Err("rule \"index\": Unclosed index expression".into());
                }
                path.push(key);
            } else {
                break;
            }
        }
        let known = SELECTORS.iter().any(|known| {
            path.iter().zip(*known).all(|(part, known)| part == known)
                && (path.len() == 2 || (path.len() == 3 && known[1] == "Meta"))
        });
        if known { Ok(path) } else { Err(format!("Selector {:?} is not valid", path.join("."))) }
    }
}

fn negate(negated: bool, expression: Expression) -> Expression {
    if negated { Expression::Not(Box::new(expression)) } else { expression }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_consul_matches_is_matched() {
        let row = json!({ "Node": { "Node": "n1", "Meta": {} }, "Service": {
            "ID": "a", "Service": "web", "Port": 1, "Tags": ["v2", "with \"quote", "back\\slash"],
            "Meta": { "k": "v", "a-b": "c", "q": "say \"hi\"", "empty": "" } } });
        // Each was asked of Consul 1.8.7.
        for (text, wanted) in [
            (r#""v2" in Service.Tags"#, true),
            ("v2 in Service.Tags", true),
            (r#""V2" in Service.Tags"#, false),
            (r#""v2" not in Service.Tags"#, false),
            (r#"Service.Tags contains "v2""#, true),
            (r#""with \x22quote" in Service.Tags and ("back\\slash" in Service.Tags)"#, true),
            (r#"`with "quote` in Service.Tags"#, true),
            (r#"Service.Meta["a-b"] == "c""#, true),
            (r#"Service.Meta["q"] == "say \u0022hi\x22""#, true),
            (r#"Service.Meta["empty"] == """#, true),
            (r#"Service.Meta["missing"] == """#, false),
            (r#"Service.Meta["missing"] != "v""#, true),
            ("Service.Meta.k == v", true),
            (r#""k" in Service.Meta"#, true),
            ("Service.Tags is empty", false),
            ("Service.Tags is not empty", true),
            ("Service.Port != 4", true),
            (r#"not ("v2" in Service.Tags)"#, false),
            (r#"("v2" in Service.Tags) or Service.Port == 3 and Service.ID == "c""#, true),
            (r#"(v2 in Service.Tags or Service.Port == 3) and Service.ID == "c""#, false),
            (r#"not Service.Meta.k == "w" and v2 in Service.Tags"#, true),
        ] {
            assert_eq!(Filter::parse(text).map(|filter| filter.matches(&row)), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_with_a_cause() {
        for text in [
            "nonsense",
            "a == b",
            "Service.Foo == b",
            "Service.Meta.k ==",
            "(Service.Meta.k == v",
            "Service.Meta.k == v)",
            "Service.Meta.a-b == c",
            r#""with \"quote" in Service.Tags"#,
            r#"Service.Meta["k == v"#,
            "Service.Meta.k matches v",
            "Service.Meta.k == v and",
            r#""\x2" in Service.Tags"#,
        ] {
            assert!(Filter::parse(text).is_err_and(|cause| !cause.is_empty()), "{text}");
        }
        assert!(Filter::parse(&"(".repeat(100_000)).is_err());
        assert!(Filter::parse(&"not ".repeat(100_000)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r#"[a-zA-Z.\[\]()"`\\ =!ä]{0,40}"#) {
            let _ = Filter::parse(&text).map(|filter| filter.matches(&json!({})));
        }
    }
}
