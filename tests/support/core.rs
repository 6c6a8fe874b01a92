//! The core without a transport, on a store that a test can delay.

use std::sync::Arc;

use duologue::session::{
    Caller, Event, Gateway, Message, NewMessage, Responder, Role, Settings, Status, Store,
    Subscription, Token,
};

/// The core on this store, with this responder.
pub async fn core<S: Store>(store: &Arc<S>, responder: impl Responder) -> Gateway {
    let (store, responder) = (Arc::clone(store), Arc::new(responder));
    Gateway::start(Settings::default(), store, responder).await.unwrap()
}

/// Creates a session. Returns a subscription and the token.
pub async fn watched(gateway: &Gateway) -> (Subscription, Token) {
    let token = gateway.create_token(&Caller::default(), "Ada").await.unwrap().token;
    (gateway.attach(&Caller::default(), &token, None).await.unwrap().0, token)
}

/// Builds a message without a client id.
pub fn new_message(text: &str) -> NewMessage {
    NewMessage::new(text, None)
}

/// The next committed reply.
pub async fn next_reply(attachment: &mut Subscription) -> Arc<Message> {
    loop {
        if let Event::Message(message) = attachment.next().await.unwrap()
            && message.in_reply_to().is_some()
        {
            return message;
        }
    }
}

/// How a reply ended.
pub fn status(message: &Message) -> &Status {
    match &message.role {
        Role::Assistant { status, .. } => status,
        Role::User { .. } => panic!("a user has no status"),
    }
}
