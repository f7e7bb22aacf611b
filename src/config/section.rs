//! A checked-for-shape section read by meaning: the file's value, else the defaults section's, else the table's default.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::problems::{Fault, Place, Problems};
use super::shape::{Key, Shape};
use super::tree::{Node, Scalar, Value, join, parse_default};
use super::values;

/// Reads one section. Values that `shape` refused fall back to the default, so that every further mistake is found.
pub(super) struct Section<'a> {
    node: Option<&'a Node>,
    /// `outbound.defaults`, or the part of it that belongs to this section.
    behind: Option<&'a Node>,
    behind_path: String,
    keys: &'static [Key],
    path: String,
    shared: &'a Shared<'a>,
}

/// What all sections of one load have in common.
pub(super) struct Shared<'a> {
    pub(super) problems: RefCell<Problems>,
    /// The config file's folder.
    pub(super) base: Option<&'a Path>,
}

impl<'a> Section<'a> {
    pub(super) fn root(node: &'a Node, keys: &'static [Key], shared: &'a Shared<'a>) -> Self {
        Self { node: Some(node), behind: None, behind_path: String::new(), keys, path: String::new(), shared }
    }

    pub(super) fn section(&self, name: &str) -> Self {
        let keys = self.keys_of(name);
        let below = |node: Option<&'a Node>| node.and_then(|node| node.get(name)).map(|entry| &entry.node);
        Self {
            node: below(self.node),
            behind: below(self.behind),
            behind_path: join(&self.behind_path, name),
            keys,
            path: join(&self.path, name),
            shared: self.shared,
        }
    }

    /// As `section`, but where the file has one, what it leaves out is not looked for in the defaults section: for
    /// sections that say one thing as a whole.
    pub(super) fn whole(&self, name: &str) -> Self {
        let node = self.find(name);
        let path = join(self.path_of(name), name);
        let keys = self.keys_of(name);
        Self { node, behind: None, behind_path: String::new(), keys, path, shared: self.shared }
    }

    /// The items of a list that is taken as a whole.
    pub(super) fn whole_list(&self, name: &str) -> Vec<Self> {
        let list = self.whole(name);
        let keys = match self.keys.iter().find(|key| key.name == name).map(|key| &key.shape) {
            Some(Shape::Sections(keys)) => *keys,
            Some(_) | None => &[],
        };
        let items = list.node.map(Node::items).unwrap_or_default().iter().enumerate();
        let item = |(at, node): (usize, &'a Node)| Self {
            node: Some(node),
            behind: None,
            behind_path: String::new(),
            keys,
            path: format!("{}[{at}]", list.path),
            shared: self.shared,
        };
        items.map(item).collect()
    }

    /// Where the file has what is read of a key.
    fn path_of(&self, name: &str) -> &str {
        let key = name.split('[').next().unwrap_or(name);
        let inherited = self.own(key).is_none() && self.behind.is_some_and(|node| node.get(key).is_some());
        if inherited { &self.behind_path } else { &self.path }
    }

    fn keys_of(&self, name: &str) -> &'static [Key] {
        let shape = self.keys.iter().find(|key| key.name == name).map(|key| &key.shape);
        let shape = if let Some(Shape::WordOr(_, section)) = shape { Some(*section) } else { shape };
        match shape {
            Some(Shape::Section(keys) | Shape::OneOf(keys)) => keys,
            _ => &[],
        }
    }

    /// The items of a list of sections; what they leave out is looked for in `behind`.
    pub(super) fn sections(&self, name: &str, behind: &Self) -> Vec<Self> {
        let keys = match self.keys.iter().find(|key| key.name == name).map(|key| &key.shape) {
            Some(Shape::Sections(keys)) => *keys,
            Some(_) | None => &[],
        };
        let items = self.find(name).map(Node::items).unwrap_or_default();
        let path = |at| format!("{}[{at}]", join(&self.path, name));
        items
            .iter()
            .enumerate()
            .map(|(at, node)| Self {
                node: Some(node),
                behind: behind.node,
                behind_path: behind.path.clone(),
                keys,
                path: path(at),
                shared: self.shared,
            })
            .collect()
    }

    /// The items of a list of sections, with nothing behind them.
    pub(super) fn items(&self, name: &str) -> Vec<Self> {
        let (behind_path, path) = (String::new(), String::new());
        let nothing = Self { node: None, behind: None, behind_path, keys: &[], path, shared: self.shared };
        self.sections(name, &nothing)
    }

    /// Another node read as if it stood in this section's place, with `behind` for what it leaves out.
    pub(super) fn read_as<'b>(&self, node: &'b Node, behind: Option<&'b Node>, shared: &'b Shared<'b>) -> Section<'b> {
        let (behind_path, path) = (self.path.clone(), self.path.clone());
        Section { node: Some(node), behind, behind_path, keys: self.keys, path, shared }
    }

    /// A node below `name`, as a section of `keys`.
    pub(super) fn below(&self, node: &'a Node, keys: &'static [Key], name: &str) -> Self {
        let (behind_path, path) = (String::new(), join(&self.path, name));
        Self { node: Some(node), behind: None, behind_path, keys, path, shared: self.shared }
    }

    /// The nodes of a key in the defaults and here, in this order.
    pub(super) fn layers(&self, name: &str) -> impl Iterator<Item = &'a Node> + use<'a> {
        let own = |node: Option<&'a Node>| node?.get(name).map(|entry| &entry.node);
        [own(self.behind), own(self.node)].into_iter().flatten()
    }

    pub(super) fn node(&self) -> Option<&'a Node> {
        self.node
    }

    pub(super) fn shared(&self) -> &'a Shared<'a> {
        self.shared
    }

    /// The node of a key, where it or the defaults have one.
    pub(super) fn find(&self, name: &str) -> Option<&'a Node> {
        let own = |node: Option<&'a Node>| node?.get(name).map(|entry| &entry.node).filter(|node| !node.is_null());
        own(self.node).or_else(|| own(self.behind))
    }

    /// Whether the section itself says something of the key.
    pub(super) fn own(&self, name: &str) -> Option<&'a Node> {
        self.node?.get(name).map(|entry| &entry.node).filter(|node| !node.is_null())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        let any = |node: Option<&Node>| node.is_some_and(|node| node.get(name).is_some());
        any(self.node) || any(self.behind)
    }

    /// The value of a key; `None` where it is absent and has no default, or is wrong and has none.
    pub(super) fn take<T>(&self, name: &str, parse: impl Fn(&Scalar) -> Result<T, Fault>) -> Option<T> {
        let read = |node: &Node| match &node.value {
            Value::Scalar(scalar) => parse(scalar).map_err(|fault| self.note(node, name, fault)).ok(),
            Value::List(_) | Value::Map(_) => None,
        };
        self.find(name).and_then(read).or_else(|| self.default(name).as_ref().and_then(read))
    }

    /// The good items of a list.
    pub(super) fn list<T>(&self, name: &str, parse: impl Fn(&Scalar) -> Result<T, Fault>) -> Vec<T> {
        let read = |(at, item): (usize, &Node)| match &item.value {
            Value::Scalar(scalar) => {
                parse(scalar).map_err(|fault| self.note(item, &format!("{name}[{at}]"), fault)).ok()
            }
            Value::List(_) | Value::Map(_) => None,
        };
        let default = self.default(name);
        let node = self.find(name).or(default.as_ref());
        node.map(|node| node.items().iter().enumerate().filter_map(read).collect()).unwrap_or_default()
    }

    /// A path: in the file relative to it, in flags and variables to the working directory.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        let path = self.take(name, values::path)?;
        let in_file = self.find(name).is_some_and(|node| matches!(node.place, Place::File { .. }));
        Some(match self.shared.base {
            Some(base) if in_file => base.join(path),
            Some(_) | None => path,
        })
    }

    /// Notes a mistake at a key's value, or at the section where the key is absent.
    pub(super) fn mistake(&self, name: &str, fault: Fault) {
        if let Some(node) = self.find(name).or(self.node).or(self.behind) {
            self.note(node, name, fault);
        }
    }

    /// Notes a mistake of the section as a whole.
    pub(super) fn fault(&self, fault: Fault) {
        if let Some(node) = self.node {
            self.shared.problems.borrow_mut().note(&node.place, &self.path, fault);
        }
    }

    pub(super) fn note(&self, node: &Node, name: &str, fault: Fault) {
        self.shared.problems.borrow_mut().note(&node.place, &join(self.path_of(name), name), fault);
    }

    pub(super) fn key_path(&self, name: &str) -> String {
        join(&self.path, name)
    }

    fn default(&self, name: &str) -> Option<Node> {
        self.keys.iter().find(|key| key.name == name)?.default.and_then(parse_default)
    }
}
