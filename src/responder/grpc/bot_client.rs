//! The parts that all replies of a bot share.

use tonic::metadata::{Ascii, MetadataValue};

use super::{channel::Channel, settings::Settings};
use crate::responder::upstream::limiter::Limiter;

/// Largest frame of a bot in bytes.
pub(super) const MAX_FRAME: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct BotClient {
    pub(super) settings: Settings,
    pub(super) channel: Channel,
    pub(super) authorization: Option<MetadataValue<Ascii>>,
    pub(super) limiter: Limiter,
}
