//! Which responder.

use std::{sync::Arc, time::Duration};

use super::Simulated;
use crate::session::Responder;

/// A responder and what it needs.
#[derive(Clone, Debug)]
pub enum Settings {
    /// A fixed text, as from a model.
    Simulated {
        /// The text; `{text}` and `{name}` stand for the message and the visitor's name.
        reply: String,
        /// Between words; zero sends the whole text as one delta.
        delay: Duration,
    },
}

impl Settings {
    /// The tutorial's sentence.
    pub const SIMULATED_REPLY: &str = "Response: Simulating response from the GPT service";
}

impl Default for Settings {
    fn default() -> Self {
        Self::Simulated { reply: Self::SIMULATED_REPLY.into(), delay: Duration::ZERO }
    }
}

/// Makes the responder.
#[must_use]
pub fn connect(settings: &Settings) -> Arc<dyn Responder> {
    match settings {
        Settings::Simulated { reply, delay } => Arc::new(Simulated::new(reply, *delay)),
    }
}
