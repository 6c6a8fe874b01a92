//! A panic ends what panicked: its turn has its message, and the next one runs.

use std::sync::Arc;

use duologue::session::{
    Caller, Chunk, Gateway, History, Outcome, Piece, Prompt, Reply, Responder, Status,
    Subscription, Token,
};
use futures_util::{StreamExt as _, stream};

use crate::support::{
    Call, DelayedStore, Scripted, Step, core, new_message, next_reply, soon, status, watched,
};

/// Where a responder panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Respond,
    Poll,
    Drop,
}

/// Replies with two words, and panics for the message "panic".
struct Panics(Place);

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("as the test wants it");
    }
}

impl Responder for Panics {
    fn history(&self) -> History {
        History::NONE
    }

    fn respond(&self, prompt: Prompt) -> Reply {
        let place = Some(self.0).filter(|_| &**prompt.message.text() == "panic");
        assert!(place != Some(Place::Respond), "as the test wants it");
        let guard = place.filter(|place| *place == Place::Drop).map(|_| PanicsWhenDropped);
        let chunks = stream::unfold((0, guard), move |(said, guard)| async move {
            assert!(said == 0 || place != Some(Place::Poll), "as the test wants it");
            let chunk = match said {
                0 => Chunk::Delta(Piece::Text("said".into())),
                _ => Chunk::End(Outcome::complete(None, None)),
            };
            Some((chunk, (said + 1, guard)))
        });
        Reply { chunks: chunks.boxed(), context_trimmed: false, input_tokens: None }
    }
}

async fn reply_to(
    gateway: &Gateway,
    (attachment, token): &mut (Subscription, Token),
    text: &str,
) -> (Status, String) {
    gateway.send(&Caller::default(), token, new_message(text)).await.unwrap();
    let reply = soon("the reply", next_reply(attachment)).await;
    (status(&reply).clone(), reply.text().as_ref().into())
}

#[tokio::test]
async fn whatever_of_a_responder_panics_the_turn_has_its_message_and_the_next_one_runs() {
    for (place, code, text) in [
        (Place::Respond, Some("internal"), ""),
        (Place::Poll, Some("internal"), "said"),
        // The reply is complete.
        (Place::Drop, None, "said"),
    ] {
        let gateway = core(&DelayedStore::new(), Panics(place)).await;
        let mut client = watched(&gateway).await;
        let (status, said) = reply_to(&gateway, &mut client, "panic").await;
        let failure = status.failure().map(|failure| failure.code.as_ref());
        assert_eq!((failure, said.as_str()), (code, text), "{place:?}");
        let next = reply_to(&gateway, &mut client, "go on").await;
        assert_eq!(next, (Status::Complete, "said".into()), "{place:?}");
    }
}

/// One that wants to see the conversation.
struct RecordingResponder(Scripted);

impl Responder for RecordingResponder {
    fn history(&self) -> History {
        History { messages: 8, size: 10_000 }
    }

    fn respond(&self, prompt: Prompt) -> Reply {
        self.0.respond(prompt)
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_does_not_end_the_turns() {
    for (call, code) in
        [(Call::Read, Some("internal")), (Call::Append, None), (Call::Checkpoint, None)]
    {
        let store = DelayedStore::new();
        let responder = Scripted::new(&[Step::Gate, Step::Flood(5000), Step::Gate, Step::End]).0;
        let gate = Arc::clone(&responder.gate);
        let gateway = core(&store, RecordingResponder(responder)).await;
        let (mut attachment, token) = watched(&gateway).await;
        let mut codes = Vec::new();
        for turn in 0..3 {
            let panics = || *store.panics.lock().unwrap() = Some(call).filter(|_| turn == 1);
            if call == Call::Read {
                panics();
            }
            gateway.send(&Caller::default(), &token, new_message("go")).await.unwrap();
            panics();
            gate.add_permits(2);
            let reply = soon("the reply", next_reply(&mut attachment)).await;
            codes.push(status(&reply).failure().map(|failure| failure.code.to_string()));
        }
        assert_eq!(codes, [None, code.map(Into::into), None], "{call:?}");
    }
}
