//! Clients of every transport that send messages until the gateway dies, and compare its log with
//! their acknowledgements when it is back.

use std::{
    collections::HashSet,
    fmt,
    io::Write as _,
    sync::{Arc, Mutex},
};

use tokio::task::JoinHandle;

use super::{Address, Attached, Entry, Event, Rest, Transport, create, history, proto, soon};

/// The messages that were acknowledged to a client: client id, message id, number, text.
type Acknowledged = Vec<(String, String, u32, String)>;

/// The figures of a harness.
#[derive(Default)]
pub struct Figures {
    pub acknowledged: usize,
    unacknowledged: usize,
    replies: usize,
    second_attempts: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, unacknowledged, replies, second_attempts } = self;
        write!(
            f,
            "{acknowledged} acknowledged messages, 0 lost, 0 twice, 0 gaps, the same history \
             over gRPC, WebSocket, SSE and REST; {unacknowledged} kept that were not \
             acknowledged; {replies} replies, {second_attempts} of them seen on the second attempt"
        )
    }
}

impl Figures {
    /// Shows a line of figures, also of a test that passes.
    pub fn print(line: impl fmt::Display) {
        // `eprintln!` would be captured.
        std::io::stderr().write_all(format!("\n{line}\n").as_bytes()).unwrap();
    }
}

/// Sessions with one client each.
pub struct Load {
    sessions: Vec<Talk>,
}

struct Talk {
    token: String,
    told: Arc<Mutex<Acknowledged>>,
    /// Number of acknowledgements that are compared. `None`: all.
    counted: Option<usize>,
    talker: Option<JoinHandle<usize>>,
    log: Vec<Entry>,
}

impl Load {
    /// Starts clients in a number of sessions, over each transport in turn.
    pub async fn begin(address: &Address, sessions: usize) -> Self {
        let mut talks = Vec::new();
        for transport in Transport::ALL.into_iter().cycle().take(sessions) {
            let (token, told) = (create(address).await, Arc::default());
            let client = transport.open(address, &token, None).await;
            let talker = Some(tokio::spawn(talk(client, Arc::clone(&told))));
            talks.push(Talk { token, told, counted: None, talker, log: Vec::new() });
        }
        Self { sessions: talks }
    }

    /// Excludes later acknowledgements from the comparison.
    pub fn stop_counting(&mut self) {
        for talk in &mut self.sessions {
            talk.counted = Some(talk.told.lock().unwrap().len());
        }
    }

    /// Waits until the clients have lost the gateway. Returns the number of refusals for other
    /// reasons than a full queue.
    pub async fn ended(&mut self) -> usize {
        let mut refused = 0;
        for talk in &mut self.sessions {
            if let Some(talker) = talk.talker.take() {
                refused += soon("a client to notice", talker).await.unwrap();
            }
        }
        refused
    }

    /// Compares the log of the gateway with its acknowledgements.
    pub async fn compare(&mut self, address: &Address, figures: &mut Figures) {
        for talk in &mut self.sessions {
            let mut told = talk.told.lock().unwrap().clone();
            told.truncate(talk.counted.unwrap_or(told.len()));
            talk.log = compare(address, &talk.token, &told, figures).await;
        }
    }

    /// As [`Self::compare`], but the last acknowledged messages may be lost. Returns the numbers of
    /// kept and lost messages.
    pub async fn compare_but_for_the_end(&mut self, address: &Address) -> (usize, usize) {
        let (mut kept, mut lost) = (0, 0);
        for talk in &mut self.sessions {
            let told = talk.told.lock().unwrap().clone();
            let path = format!("/refresh_token?token={}", talk.token);
            match Rest::call(address, "GET", &path).await.status {
                200 => {}
                // The session itself was the last acknowledgement.
                status => {
                    assert_eq!(status, 400);
                    lost += told.len();
                    continue;
                }
            }
            let log = answered(address, &talk.token, &mut Figures::default()).await;
            let seqs: Vec<_> = log.iter().map(|entry| entry.0).collect();
            assert_eq!(seqs, (1..=log.len() as u64).collect::<Vec<_>>(), "gapless");
            let is_kept = |(_, id, seq, text): &(String, String, u32, String)| {
                let entry = log.get(*seq as usize - 1);
                entry.is_some_and(|entry| (&entry.1, &entry.3) == (id, text))
            };
            let there = told.iter().take_while(|told| is_kept(told)).count();
            assert!(!told[there..].iter().any(is_kept), "a hole: {there} of {told:?} in {log:?}");
            kept += there;
            lost += told.len() - there;
            for transport in Transport::ALL {
                assert_eq!(
                    log,
                    replay(address, transport, &talk.token, log.len()).await,
                    "{transport:?}"
                );
            }
        }
        (kept, lost)
    }

    /// Checks that nothing has changed since [`Self::compare`].
    pub async fn compare_again(&self, address: &Address) {
        for talk in &self.sessions {
            assert_eq!(history(address, Transport::Sse, &talk.token).await, talk.log);
        }
    }
}

/// Sends messages until the gateway dies. Returns the number of refusals without a retry delay.
async fn talk(mut client: Attached, told: Arc<Mutex<Acknowledged>>) -> usize {
    let mut refused = 0;
    for turn in 0_usize.. {
        let (id, text) = (format!("m{turn}"), format!("text {turn}"));
        match client.try_say(&text, Some(&id)).await {
            Ok(Ok(accepted)) => {
                assert!(!accepted.duplicate);
                told.lock().unwrap().push((id, accepted.message_id, accepted.seq, text));
            }
            // This message is not sent.
            Ok(Err(refusal)) => refused += usize::from(refusal.retry_after_ms.is_none()),
            Err(_) => break,
        }
    }
    refused
}

async fn compare(
    address: &Address,
    token: &str,
    told: &Acknowledged,
    figures: &mut Figures,
) -> Vec<Entry> {
    let log = answered(address, token, figures).await;
    for transport in Transport::ALL {
        assert_eq!(log, replay(address, transport, token, log.len()).await, "{transport:?}");
    }
    assert_eq!(log, history(address, Transport::Grpc, token).await, "gRPC, read at once");
    let seqs: Vec<_> = log.iter().map(|entry| entry.0).collect();
    assert_eq!(seqs, (1..=log.len() as u64).collect::<Vec<_>>(), "gapless");
    for (_, id, seq, text) in told {
        let kept = log.get(*seq as usize - 1);
        let kept = kept.unwrap_or_else(|| panic!("acknowledged and lost: {seq} {text:?}"));
        assert_eq!((&kept.1, &kept.3), (id, text), "acknowledged and lost or changed");
    }
    let users: Vec<_> =
        log.iter().filter(|entry| entry.2 == "user").map(|entry| &entry.3).collect();
    assert_eq!(users.len(), users.iter().collect::<HashSet<_>>().len(), "kept twice: {users:?}");
    // A retry after the death gets the first answer.
    if let Some((key, id, seq, text)) = told.last() {
        for transport in Transport::ALL {
            let mut client = transport.open(address, token, None).await;
            let again = client.say(text, Some(key)).await.unwrap();
            assert_eq!((again.duplicate, &again.message_id, again.seq), (true, id, *seq));
        }
    }
    figures.acknowledged += told.len();
    figures.unacknowledged += users.len() - told.len();
    log
}

/// Returns the log over REST, once every turn has its reply.
async fn answered(address: &Address, token: &str, figures: &mut Figures) -> Vec<Entry> {
    let start = Transport::Json.open(address, token, None).await.at(0);
    let mut watcher = Transport::Json.open(address, token, Some(&start)).await;
    let log = history(address, Transport::Sse, token).await;
    let turns = log.iter().filter(|entry| entry.2 == "user").count();
    let (mut asked, mut answered) = (HashSet::new(), 0);
    while answered < turns {
        match watcher.next().await {
            Event::Message(message) if message.role() == proto::Role::User => {
                asked.insert(message.id);
            }
            Event::Message(message) => {
                assert_eq!(message.status(), proto::MessageStatus::Complete);
                assert!(asked.remove(&message.in_reply_to.unwrap()), "answered twice");
                answered += 1;
            }
            Event::ReplyStarted(started) => {
                figures.second_attempts += usize::from(started.attempt == 2);
            }
            _ => {}
        }
    }
    figures.replies += answered;
    history(address, Transport::Sse, token).await
}

/// Returns the log as a subscriber from its beginning receives it.
async fn replay(address: &Address, transport: Transport, token: &str, length: usize) -> Vec<Entry> {
    let start = transport.open(address, token, None).await.at(0);
    let mut client = transport.open(address, token, Some(&start)).await;
    let entry = |message: proto::Message| {
        let role = if message.role() == proto::Role::User { "user" } else { "assistant" };
        (u64::from(message.seq), message.id, role.to_owned(), message.text)
    };
    client.messages(length).await.into_iter().map(entry).collect()
}
