//! `response-transformer`: changes the headers of answers, as Kong's plugin does it
//! (`kong/plugins/response-transformer/header_transformer.lua`): those of the app, of other plugins and of outrigger itself.
//! Bodies it leaves alone.

use http::HeaderValue;

use super::fields::Changes;
use super::{Answered, Call, Decision, Filter};

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    pub headers: Changes<HeaderValue>,
}

pub(super) struct ResponseTransformer {
    settings: Settings,
}

impl ResponseTransformer {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings }
    }
}

impl Filter for ResponseTransformer {
    fn request(&self, _call: &mut Call<'_>) -> Decision {
        Decision::PASS
    }

    fn response(&self, answer: &mut Answered<'_>) {
        self.settings.headers.apply(answer.headers, HeaderValue::clone);
    }
}
