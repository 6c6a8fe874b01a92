//! Several tokens of one session, in every store.

use duologue::session::{ErrorKind, Scope, SessionId, Token, TokenRecord};

use crate::store_contract::{ALL, NOW, created, kind, later, new_session, record, stores};

#[tokio::test]
async fn a_session_has_several_tokens_and_each_is_revoked_alone() {
    for store in stores().await {
        let (session, first) = created(&*store).await;
        let second = Token::generate_in(session.id.partition());
        let issued =
            TokenRecord { scope: Scope::Read, label: Some("phone".into()), ..record(&second) };
        store.issue(session.id, NOW, issued.clone(), 2).await.unwrap();
        let found = store.find(&second.hash(), NOW).await.unwrap();
        assert_eq!((found.session, found.token), (session.clone(), issued.clone()));
        let third = record(&Token::generate_in(session.id.partition()));
        assert_eq!(
            kind(store.issue(session.id, NOW, third.clone(), 2).await),
            ErrorKind::Overloaded
        );
        assert_eq!(store.revoke_token(session.id, NOW, issued.id).await.unwrap(), 1);
        assert_eq!(kind(store.find(&second.hash(), NOW).await), ErrorKind::SessionExpired);
        let again = store.revoke_token(session.id, NOW, issued.id).await;
        assert_eq!(kind(again), ErrorKind::SessionExpired);
        assert!(store.find(&first.hash(), NOW).await.is_ok());
        let late = store.issue(session.id, later(60), third, 9).await;
        assert_eq!(kind(late), ErrorKind::SessionExpired);
    }
}

#[tokio::test]
async fn a_token_with_deadlines_of_its_own_ends_before_its_session() {
    for store in stores().await {
        let (session, _) = created(&*store).await;
        let token = Token::generate_in(session.id.partition());
        let own = TokenRecord { deadlines: Some((later(10), later(20))), ..record(&token) };
        store.issue(session.id, NOW, own, 9).await.unwrap();
        let found = store.find(&token.hash(), NOW).await.unwrap().session;
        assert_eq!((found.expires_at, found.ends_at), (later(10), later(20)));
        assert_eq!(kind(store.find(&token.hash(), later(10)).await), ErrorKind::SessionExpired);
        assert!(store.read(session.id, later(10), ALL).await.is_ok(), "the session stays");
    }
}

#[tokio::test]
async fn the_last_token_is_counted_and_ends_with_its_session() {
    for store in stores().await {
        let (session, token) = created(&*store).await;
        let (other, _) = created(&*store).await;
        let second = record(&Token::generate_in(session.id.partition()));
        store.issue(session.id, NOW, second.clone(), 2).await.unwrap();
        let foreign = store.revoke_token(other.id, NOW, second.id).await;
        assert_eq!(kind(foreign), ErrorKind::SessionExpired, "it is of another session");
        let first = store.find(&token.hash(), NOW).await.unwrap().token.id;
        assert_eq!(store.revoke_token(session.id, NOW, first).await.unwrap(), 1);
        assert_eq!(store.revoke_token(session.id, NOW, second.id).await.unwrap(), 0);
        assert!(store.read(session.id, NOW, ALL).await.is_ok(), "the core ends the session");

        let (new, token) = new_session();
        store.create(new.clone()).await.unwrap();
        let second = Token::generate_in(session.id.partition());
        store.issue(new.session.id, NOW, record(&second), 2).await.unwrap();
        store.revoke(new.session.id, NOW).await.unwrap();
        for token in [token, second] {
            assert_eq!(kind(store.find(&token.hash(), NOW).await), ErrorKind::SessionExpired);
        }
    }
}

#[tokio::test]
async fn tokens_share_the_deadline_of_their_session_and_are_swept_with_it() {
    for store in stores().await {
        let (session, first) = created(&*store).await;
        let second = Token::generate_in(session.id.partition());
        store.issue(session.id, NOW, record(&second), 2).await.unwrap();
        let token_id = store.find(&first.hash(), NOW).await.unwrap().token.id;
        store.renew(session.id, token_id, NOW, later(90)).await.unwrap();
        for token in [&first, &second] {
            let found = store.find(&token.hash(), later(80)).await.unwrap();
            assert_eq!(found.session.expires_at, later(90));
            assert_eq!(kind(store.find(&token.hash(), later(90)).await), ErrorKind::SessionExpired);
        }
        assert_eq!(store.sweep(later(90), 9).await.unwrap().sessions, [session.id]);
        // The hashes are free again.
        let (mut new, _) = new_session();
        new.session.id = SessionId::generate_in(second.hash().partition());
        new.token = TokenRecord { scope: Scope::Read, ..record(&second) };
        store.create(new.clone()).await.unwrap();
        assert_eq!(store.find(&second.hash(), NOW).await.unwrap().token, new.token);
    }
}
