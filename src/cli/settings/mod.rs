//! The settings, one definition each.

mod bot;
mod caller_limits;
mod callers;
mod limits;
mod model;
mod replies;
mod server;
mod sessions;

use super::setting::{Group, Setting};

pub(super) const GROUPS: &[&Group] = &[
    &server::GROUP,
    &sessions::GROUP,
    &callers::GROUP,
    &replies::GROUP,
    &model::GROUP,
    &bot::GROUP,
    &limits::GROUP,
    &caller_limits::GROUP,
];

/// Every setting, in the order of the reference. `app-env` comes first, since it changes the
/// defaults of others.
pub(super) fn all() -> impl Iterator<Item = &'static Setting> {
    GROUPS.iter().flat_map(|group| group.settings)
}
