//! The core without a transport, on a store that a test can delay.

use std::sync::Arc;

use duologue::session::{
    Caller, Event, Gateway, Message, NewMessage, NewToken, Responder, Settings, Status, Storage,
    Store, Subscription, Token, Turns,
};

/// The core on this store, with this responder.
pub async fn core<S: Store + Turns>(store: &Arc<S>, responder: impl Responder) -> Gateway {
    Gateway::start(Settings::default(), unshared(store), Arc::new(responder)).await.unwrap()
}

/// Returns the ports of a store that only this gateway uses.
pub fn unshared<S: Store + Turns>(store: &Arc<S>) -> Storage {
    Storage::unshared(Arc::clone(store))
}

/// Returns the request for a session of this user.
pub fn named(name: &str) -> NewToken<'_> {
    NewToken { name, ..NewToken::default() }
}

/// Creates a session. Returns a subscription and the token.
pub async fn watched(gateway: &Gateway) -> (Subscription, Token) {
    let token = gateway.create_token(&Caller::default(), named("Ada")).await.unwrap().token;
    (gateway.attach(&Caller::default(), &token, None).await.unwrap().0, token)
}

/// Builds a message without a client id.
pub fn new_message(text: &str) -> NewMessage {
    NewMessage::new(text, None)
}

/// The next committed reply.
pub async fn next_reply(attachment: &mut Subscription) -> Arc<Message> {
    loop {
        if let Event::Message(event) = attachment.next().await.unwrap()
            && event.message.in_reply_to().is_some()
        {
            return event.message;
        }
    }
}

/// How a reply ended.
pub fn status(message: &Message) -> &Status {
    &message.reply().expect("a user message has no status").status
}
