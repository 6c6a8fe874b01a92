//! What every store promises (`session::Store`), run over each implementation.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use duologue::{
    session::{
        Answered, AppendLimits, Appended, Checkpoint, Content, Epoch, ErrorKind, Failure, Head,
        Lease, MessageId, Metadata, Name, NewReply, NewSession, NewTurn, Page, Question,
        ReplyFields, Result, Scope, Session, SessionId, Status, Storage, Store, Swept, Timestamp,
        Token, TokenId, TokenRecord, Turns, Usage,
    },
    store::{Durability, MemoryStore, SqliteStore},
};
use futures_util::future::join_all;

use crate::support::RedisServer;

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_000_000);
pub(crate) const ALL: Page =
    Page { after: Some(0), until: u32::MAX, limit: u32::MAX, max_size: usize::MAX };

pub(crate) fn later(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

/// A store whose only process is the test.
#[async_trait]
pub(crate) trait AnyStore: Store + Turns {
    /// Returns the lease under which the test answers.
    async fn lease(&self, id: SessionId, now: Timestamp) -> Result<Lease> {
        let waiting = self.unanswered(id, now).await?;
        Ok(waiting.first().map_or(Lease::UNSHARED, |turn| turn.lease))
    }

    async fn answer_alone(
        &self,
        id: SessionId,
        reply: NewReply,
        now: Timestamp,
    ) -> Result<Appended> {
        let lease = self.lease(id, now).await?;
        match self.answer(id, lease, reply, now).await? {
            Answered::Kept(appended) => Ok(appended),
            other => panic!("{other:?}"),
        }
    }
}

impl<S: Store + Turns> AnyStore for S {}

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(1000, 1 << 20))
}

fn sqlite() -> Arc<SqliteStore> {
    let (_, path) = tempfile::NamedTempFile::new().unwrap().keep().unwrap();
    std::fs::remove_file(&path).unwrap();
    Arc::new(SqliteStore::open(&path, Durability::Full).unwrap())
}

pub(crate) async fn stores() -> Vec<Arc<dyn AnyStore>> {
    let mut stores: Vec<Arc<dyn AnyStore>> = vec![memory(), sqlite()];
    for server in RedisServer::shared() {
        stores.push(server.store().await);
    }
    stores
}

/// The same for a gateway.
pub(crate) fn storages() -> Vec<Storage> {
    vec![Storage::unshared(memory()), Storage::unshared(sqlite())]
}

pub(crate) fn terms() -> AppendLimits {
    AppendLimits {
        now: NOW,
        token: TokenId::generate(),
        expires_at: later(100),
        delete_at: later(1000),
        has_room: true,
        budgets: duologue::session::Budgets::default(),
        max_queued_turns: 4,
        max_session_messages: 100,
    }
}

pub(crate) fn new_session() -> (NewSession, Token) {
    let token = Token::generate();
    let session = Session {
        id: SessionId::generate_in(token.hash().partition()),
        name: Name::trusted("Ada"),
        epoch: Epoch::generate(),
        created_at: NOW,
        expires_at: later(60),
        ends_at: later(200),
        delete_at: Some(later(200)),
        title: None,
        metadata: Metadata::default(),
        subject: None,
    };
    (NewSession { session, token: record(&token), origin: None }, token)
}

pub(crate) fn record(token: &Token) -> TokenRecord {
    let (id, hash) = (TokenId::generate(), token.hash());
    TokenRecord { id, hash, scope: Scope::Write, label: None, deadlines: None }
}

pub(crate) async fn created(store: &dyn AnyStore) -> (Session, Token) {
    let (new, token) = new_session();
    store.create(new.clone()).await.unwrap();
    (new.session, token)
}

pub(crate) fn user(text: &str, key: Option<&str>) -> NewTurn {
    NewTurn {
        id: MessageId::generate(),
        client_message_id: key.map(Into::into),
        metadata: Metadata::default(),
        options: None,
        question: Question::New { content: Content::of_text(text), parent_seq: None },
    }
}

pub(crate) fn reply(to: &Appended) -> NewReply {
    NewReply {
        id: MessageId::generate(),
        content: Content::of_text("reply"),
        metadata: Metadata::default(),
        fields: ReplyFields {
            finish_reason: Some("stop".into()),
            ..ReplyFields::new(to.message.id, to.message.seq, Status::Complete)
        },
    }
}

pub(crate) fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test]
async fn a_session_is_found_by_its_token_and_no_other() {
    for store in stores().await {
        let (session, token) = created(&*store).await;
        assert_eq!(store.find(&token.hash(), NOW).await.unwrap().session, session);
        assert_eq!(
            kind(store.find(&Token::generate().hash(), NOW).await),
            ErrorKind::SessionExpired
        );
    }
}

#[tokio::test]
async fn a_session_is_gone_at_its_deadline_for_every_operation() {
    for store in stores().await {
        let (session, token) = created(&*store).await;
        let (id, at) = (session.id, later(60));
        let token_id = store.find(&token.hash(), NOW).await.unwrap().token.id;
        assert!(
            store.find(&token.hash(), Timestamp::from_millis(at.as_millis() - 1)).await.is_ok()
        );
        assert_eq!(kind(store.find(&token.hash(), at).await), ErrorKind::SessionExpired);
        assert_eq!(kind(store.renew(id, token_id, at, later(90)).await), ErrorKind::SessionExpired);
        assert_eq!(kind(store.revoke(id, at).await), ErrorKind::SessionExpired);
        assert_eq!(kind(store.read(id, at, ALL).await), ErrorKind::SessionExpired);
        let late = AppendLimits { now: at, ..terms() };
        assert_eq!(kind(store.append(id, user("x", None), late).await), ErrorKind::SessionExpired);
    }
}

#[tokio::test]
async fn renewing_moves_the_deadline_forward_and_never_past_the_end() {
    for store in stores().await {
        let (session, token) = created(&*store).await;
        let token = store.find(&token.hash(), NOW).await.unwrap().token.id;
        let renew =
            async |to| store.renew(session.id, token, NOW, later(to)).await.unwrap().expires_at;
        assert_eq!(renew(90).await, later(90));
        assert_eq!(renew(70).await, later(90), "never backward");
        assert_eq!(renew(500).await, later(200), "never past the end");
    }
}

#[tokio::test]
async fn sweeping_deletes_what_expired_in_batches_and_nothing_else() {
    for store in stores().await {
        let mut due = Vec::new();
        for _ in 0..5 {
            due.push(created(&*store).await.0.id);
        }
        let (kept, token) = created(&*store).await;
        let token_id = store.find(&token.hash(), NOW).await.unwrap().token.id;
        store.renew(kept.id, token_id, NOW, later(100)).await.unwrap();
        assert_eq!(store.sweep(NOW, 10).await.unwrap(), Swept::default());
        let first = store.sweep(later(60), 3).await.unwrap();
        assert_eq!((first.sessions.len(), first.more), (3, true));
        let mut swept = first.sessions;
        swept.extend(store.sweep(later(60), 3).await.unwrap().sessions);
        swept.sort_unstable();
        due.sort_unstable();
        assert_eq!(swept, due);
        assert_eq!(store.sweep(later(60), 3).await.unwrap(), Swept::default());
        assert!(store.find(&token.hash(), later(60)).await.is_ok());
    }
}

#[tokio::test]
async fn heads_are_those_of_the_sessions_that_exist_in_the_order_asked_for() {
    for store in stores().await {
        let (ada, _) = created(&*store).await;
        let (eve, _) = created(&*store).await;
        let (bob, _) = created(&*store).await;
        store.append(bob.id, user("Hi", None), terms()).await.unwrap();
        store.revoke(eve.id, NOW).await.unwrap();
        let head = |session: &Session, seq| Head {
            session: session.id,
            epoch: session.epoch.clone(),
            seq,
        };
        let asked = [bob.id, eve.id, SessionId::generate(), ada.id];
        let heads = store.heads(&asked, NOW).await.unwrap();
        assert_eq!(heads, [head(&bob, 1), head(&ada, 0)]);
        let heads = store.heads(&asked, later(61)).await.unwrap();
        assert_eq!(heads, [head(&bob, 1)], "an expired session does not exist");
        assert!(!store.written_elsewhere().await.unwrap());
    }
}

#[tokio::test]
async fn revoking_takes_the_log_and_the_token() {
    for store in stores().await {
        let (session, token) = created(&*store).await;
        store.append(session.id, user("x", None), terms()).await.unwrap();
        store.revoke(session.id, NOW).await.unwrap();
        assert_eq!(kind(store.find(&token.hash(), NOW).await), ErrorKind::SessionExpired);
        assert_eq!(kind(store.read(session.id, NOW, ALL).await), ErrorKind::SessionExpired);
        assert_eq!(kind(store.revoke(session.id, NOW).await), ErrorKind::SessionExpired);
        assert!(store.take_over(None, None, 10, NOW).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn numbers_are_gapless_and_a_read_is_one_consistent_look() {
    for store in stores().await {
        let (session, _) = created(&*store).await;
        for turn in 0..3 {
            let asked =
                store.append(session.id, user(&format!("{turn}"), None), terms()).await.unwrap();
            assert_eq!(
                (asked.message.seq, asked.duplicate, asked.reply_seq),
                (turn * 2 + 1, false, None)
            );
            assert_eq!(
                store.answer_alone(session.id, reply(&asked), NOW).await.unwrap().message.seq,
                turn * 2 + 2
            );
        }
        let seqs = async |page| {
            let look = store.read(session.id, NOW, page).await.unwrap();
            let seqs: Vec<_> = look.messages.iter().map(|message| message.seq).collect();
            (seqs, look.has_more, look.head_seq)
        };
        assert_eq!(seqs(ALL).await, (vec![1, 2, 3, 4, 5, 6], false, 6));
        assert_eq!(seqs(Page { after: Some(2), limit: 2, ..ALL }).await, (vec![3, 4], true, 6));
        assert_eq!(seqs(Page { after: Some(2), until: 4, ..ALL }).await, (vec![3, 4], false, 6));
        assert_eq!(seqs(Page { after: Some(6), ..ALL }).await, (vec![], false, 6));
        assert_eq!(seqs(Page { after: Some(u32::MAX), ..ALL }).await, (vec![], false, 6));
        assert_eq!(seqs(Page { after: None, limit: 2, ..ALL }).await, (vec![5, 6], true, 6));
        assert_eq!(
            seqs(Page { after: None, until: 4, limit: 2, ..ALL }).await,
            (vec![3, 4], true, 6)
        );
        assert_eq!(seqs(Page { after: None, until: 0, ..ALL }).await, (vec![], false, 6));
        assert_eq!(seqs(Page { limit: 0, ..ALL }).await, (vec![], true, 6));
        let sized = seqs(Page { max_size: 7, ..ALL }).await;
        assert_eq!(sized, (vec![1, 2, 3], true, 6), "one, five and one byte");
        assert_eq!(seqs(Page { max_size: 0, ..ALL }).await, (vec![1], true, 6), "at least one");
    }
}

#[tokio::test]
async fn an_entry_is_appended_once_whatever_the_terms() {
    for store in stores().await {
        let (session, _) = created(&*store).await;
        let first = store.append(session.id, user("x", Some("k")), terms()).await.unwrap();
        let full = AppendLimits { max_queued_turns: 0, max_session_messages: 0, ..terms() };
        let again = store.append(session.id, user("x", Some("k")), full).await.unwrap();
        assert!(again.duplicate && again.message == first.message && again.reply_seq.is_none());
        assert_eq!(
            kind(store.append(session.id, user("y", Some("k")), terms()).await),
            ErrorKind::MessageIdReused
        );

        let answered = store.answer_alone(session.id, reply(&first), NOW).await.unwrap();
        assert!(!answered.duplicate, "a reply is never refused by the terms");
        let twice = store.answer_alone(session.id, reply(&first), NOW).await.unwrap();
        assert!(twice.duplicate && twice.message == answered.message);
        let again = store.append(session.id, user("x", Some("k")), terms()).await.unwrap();
        assert_eq!((again.duplicate, again.reply_seq), (true, Some(2)));

        let (other, _) = created(&*store).await;
        assert!(
            !store.append(other.id, user("y", Some("k")), terms()).await.unwrap().duplicate,
            "keys are a session's own"
        );
    }
}

#[tokio::test]
async fn the_usage_of_a_session_is_that_of_its_replies_counted_once() {
    let took = |input_tokens, output_tokens, estimated| Usage {
        estimated,
        ..Usage::exact(input_tokens, output_tokens)
    };
    for store in stores().await {
        let (session, _) = created(&*store).await;
        let usage = async |page| store.read(session.id, NOW, page).await.unwrap().usage;
        let turn = async |usage, status| {
            let asked = store.append(session.id, user("x", None), terms()).await.unwrap();
            let mut reply = reply(&asked);
            (reply.fields.status, reply.fields.usage) = (status, usage);
            for again in [false, true] {
                let appended = store.answer_alone(session.id, reply.clone(), NOW).await.unwrap();
                assert_eq!(appended.duplicate, again);
            }
        };
        assert_eq!(usage(ALL).await, Usage::default());
        turn(Some(took(3, 5, false)), Status::Complete).await;
        assert_eq!(usage(ALL).await, took(3, 5, false));
        assert_eq!(usage(Page { limit: 0, ..ALL }).await, took(3, 5, false), "of the whole log");
        let failure = Failure { code: "x".into(), message: "x".into() };
        turn(Some(took(10, 20, true)), Status::Failed(failure)).await;
        turn(Some(took(100, 200, false)), Status::Stopped).await;
        assert_eq!(usage(ALL).await, took(113, 225, true), "an estimate from then on");
        turn(Some(took(u32::MAX, u32::MAX - 225, false)), Status::Complete).await;
        turn(Some(took(0, 1, false)), Status::Complete).await;
        assert_eq!(usage(ALL).await, took(u32::MAX, u32::MAX, true), "no more than fits");

        let (other, _) = created(&*store).await;
        let asked = store.append(other.id, user("x", None), terms()).await.unwrap();
        store.answer_alone(other.id, reply(&asked), NOW).await.unwrap();
        let uncounted = store.read(other.id, NOW, ALL).await.unwrap().usage;
        assert_eq!(uncounted, took(0, 0, true), "a session's own, and not all was counted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_at_the_same_time_append_once() {
    for store in stores().await {
        let (session, _) = created(&*store).await;
        let append = || {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                store.append(session.id, user("x", Some("k")), terms()).await.unwrap()
            })
        };
        let appended = join_all((0..16).map(|_| append())).await;
        let new = appended.iter().filter(|appended| !appended.as_ref().unwrap().duplicate);
        assert_eq!(new.count(), 1);
        assert_eq!(store.read(session.id, NOW, ALL).await.unwrap().head_seq, 1);
    }
}

#[tokio::test]
async fn terms_refuse_a_full_queue_and_a_full_log() {
    for store in stores().await {
        let (session, _) = created(&*store).await;
        let narrow = AppendLimits { max_queued_turns: 2, max_session_messages: 4, ..terms() };
        let first = store.append(session.id, user("1", None), narrow).await.unwrap();
        let second = store.append(session.id, user("2", None), narrow).await.unwrap();
        assert_eq!(
            kind(store.append(session.id, user("3", None), narrow).await),
            ErrorKind::QueueFull
        );
        store.answer_alone(session.id, reply(&first), NOW).await.unwrap();
        assert_eq!(
            kind(store.append(session.id, user("3", None), narrow).await),
            ErrorKind::SessionFull
        );
        store.answer_alone(session.id, reply(&second), NOW).await.unwrap();
        assert_eq!(
            kind(store.append(session.id, user("3", None), narrow).await),
            ErrorKind::SessionFull
        );
        assert_eq!(store.read(session.id, NOW, ALL).await.unwrap().head_seq, 4);
    }
}

#[tokio::test]
async fn a_user_message_renews_the_session_and_a_refused_one_does_not() {
    for store in stores().await {
        let (session, token) = created(&*store).await;
        let none = AppendLimits { max_queued_turns: 0, ..terms() };
        assert!(store.append(session.id, user("x", None), none).await.is_err());
        assert_eq!(store.find(&token.hash(), NOW).await.unwrap().session.expires_at, later(60));
        let appended = store.append(session.id, user("x", None), terms()).await.unwrap();
        assert_eq!(appended.expires_at, later(100));
        assert_eq!(store.find(&token.hash(), NOW).await.unwrap().session.expires_at, later(100));
    }
}

#[tokio::test]
async fn unfinished_turns_are_listed_in_order_page_by_page() {
    for store in stores().await {
        let mut expected = Vec::new();
        for _ in 0..3 {
            let (session, _) = created(&*store).await;
            let done = store.append(session.id, user("done", None), terms()).await.unwrap();
            store.answer_alone(session.id, reply(&done), NOW).await.unwrap();
            for _ in 0..2 {
                let open = store.append(session.id, user("open", None), terms()).await.unwrap();
                expected.push((session.id, open.message.seq));
            }
        }
        expected.sort_unstable();
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.take_over(None, after, 4, NOW).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some((last.session.id, last.message.seq));
            found.extend(page.iter().map(|turn| (turn.session.id, turn.message.seq)));
        }
        assert_eq!(found, expected);
        assert!(
            store.take_over(None, None, 10, later(100)).await.unwrap().is_empty(),
            "expired sessions have no turns"
        );
    }
}

/// A gateway does not wait for its last note before it commits the reply.
#[tokio::test]
async fn a_note_of_progress_that_comes_after_the_reply_changes_nothing() {
    for store in stores().await {
        let (session, _) = created(&*store).await;
        let asked = store.append(session.id, user("x", None), terms()).await.unwrap();
        let lease = store.lease(session.id, NOW).await.unwrap();
        let note = |text: &str| {
            let at =
                Checkpoint { seq: asked.message.seq, attempt: 1, content: Content::of_text(text) };
            store.checkpoint(session.id, lease, at, NOW)
        };
        note("early").await.unwrap();
        assert_eq!(
            store.take_over(None, None, 10, NOW).await.unwrap()[0].partial,
            Content::of_text("early")
        );
        let reply = store.answer_alone(session.id, reply(&asked), NOW).await.unwrap();
        note("late").await.unwrap();
        assert!(store.take_over(None, None, 10, NOW).await.unwrap().is_empty());
        let log = store.read(session.id, NOW, ALL).await.unwrap().messages;
        assert_eq!(log, [asked.message, reply.message]);
    }
}

#[tokio::test]
async fn a_reply_to_nothing_is_a_fault() {
    for store in stores().await {
        let (one, _) = created(&*store).await;
        let (other, _) = created(&*store).await;
        let asked = store.append(one.id, user("x", None), terms()).await.unwrap();
        assert_eq!(
            kind(store.answer_alone(other.id, reply(&asked), NOW).await),
            ErrorKind::Internal
        );
    }
}

#[tokio::test]
async fn a_node_whose_clock_is_ahead_deletes_no_session_of_a_server() {
    for server in RedisServer::shared() {
        let store = server.store().await;
        let now = Timestamp::of_wall_clock();
        let (mut new, token) = new_session();
        let in_an_hour = now.plus(Duration::from_secs(3600));
        (new.session.created_at, new.session.expires_at) = (now, in_an_hour);
        (new.session.ends_at, new.session.delete_at) = (in_an_hour, Some(in_an_hour));
        store.create(new).await.unwrap();
        let ahead = now.plus(Duration::from_secs(7200));
        assert_eq!(store.sweep(ahead, 10).await.unwrap().sessions, []);
        store.find(&token.hash(), now).await.unwrap();
    }
}
