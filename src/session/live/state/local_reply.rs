//! The reply in progress that this process produces.

use std::sync::Arc;

use super::{State, send_to};
use crate::session::{
    live::{
        event::Event,
        reply_draft::{Extended, ReplyDraft, ReplyLimits, Sink},
    },
    model::{Citation, Content, Part},
    ports::Piece,
    turn::cancel::CancelReason,
};

impl State {
    /// Announces the reply once, and again if its context turns out to be trimmed.
    pub(in crate::session::live) fn announce_reply(&mut self, context_trimmed: bool) {
        let wants_deltas = self.wants_deltas();
        let Some(reply) = &mut self.reply else { return };
        if reply.announce(context_trimmed) && wants_deltas {
            let started = Arc::new(reply.started.clone());
            self.broadcast(Event::ReplyStarted(started));
        }
    }

    pub(in crate::session::live) fn extend_reply(
        &mut self,
        piece: Piece,
        limits: ReplyLimits,
    ) -> Extended {
        self.change_draft(|draft, sink| draft.append(piece, limits, sink))
    }

    pub(in crate::session::live) fn push_part(
        &mut self,
        part: Part,
        limits: ReplyLimits,
    ) -> Extended {
        self.change_draft(|draft, sink| draft.push(part, limits, sink))
    }

    pub(in crate::session::live) fn end_part(
        &mut self,
        citations: Vec<Citation>,
        provider_data: Option<Arc<str>>,
        limits: ReplyLimits,
    ) -> Extended {
        self.change_draft(|draft, sink| draft.end_part(citations, provider_data, limits, sink))
    }

    /// Changes the content of the reply and broadcasts the events of the change.
    fn change_draft(
        &mut self,
        change: impl FnOnce(&mut ReplyDraft, &mut Sink<'_>) -> Extended,
    ) -> Extended {
        let wants_deltas = self.wants_deltas();
        let Self { reply, subscribers, .. } = self;
        let Some(reply) = reply else { return Extended::NoReply };
        let mut send = |event| send_to(subscribers, event);
        let mut sink: Sink<'_> = None;
        if wants_deltas {
            sink = Some(&mut send);
        }
        change(&mut reply.draft, &mut sink)
    }

    pub(in crate::session::live) fn end_reply(&mut self) -> Option<CancelReason> {
        self.reply.as_mut()?.end()
    }

    pub(in crate::session::live) fn finish_content(&mut self, complete: bool) -> Content {
        let mut content = Content::default();
        let _no_reply = self.change_draft(|draft, sink| {
            content = draft.finish(complete, sink);
            Extended::Whole
        });
        content
    }

    pub(in crate::session::live) fn reply_content(&self) -> Content {
        self.reply.as_ref().map_or_else(Content::default, |reply| reply.draft.content())
    }
}
