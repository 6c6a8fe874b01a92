//! Messages per second.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use duologue::{
    session::{
        Answered, AppendLimits, Content, Epoch, Lease, MessageId, Metadata, Name, NewReply,
        NewSession, NewTurn, Question, ReplyFields, Scope, Session, SessionId, Status, Storage,
        Timestamp, Token, TokenId, TokenRecord,
    },
    store::{Durability, MemoryStore, SqliteStore},
};
use tokio::task::JoinSet;

use crate::{
    Options, Result,
    bare::{Bare, Kind, Row},
    place,
    spread::Spread,
    thousands,
};

const MESSAGE: &str = "Hello Bot";
const REPLY: &str = "Response: Simulating response from the GPT service";

/// Senders at a time, each with a session of its own.
const SENDERS: [usize; 3] = [1, 64, 1024];

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Subject {
    Bare,
    Full,
    Relaxed,
    Memory,
}

impl Subject {
    const ALL: [Self; 4] = [Self::Bare, Self::Full, Self::Relaxed, Self::Memory];
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bare => "a bare loop over SQLite: the limit",
            Self::Full => "`sqlite`, `full`",
            Self::Relaxed => "`sqlite`, `relaxed`",
            Self::Memory => "`memory`",
        })
    }
}

/// What keeps the messages.
#[derive(Clone)]
enum Keeper {
    Bare(Bare),
    Store(Storage),
}

fn sqlite(path: &Path, durability: Durability) -> Result<Storage> {
    Ok(Storage::unshared(Arc::new(SqliteStore::open(path, durability)?)))
}

impl Keeper {
    async fn open(subject: Subject, path: &Path) -> Result<Self> {
        Ok(Self::Store(match subject {
            Subject::Bare => return Ok(Self::Bare(Bare::start(path).await?)),
            Subject::Full => sqlite(path, Durability::Full)?,
            Subject::Relaxed => sqlite(path, Durability::Relaxed)?,
            Subject::Memory => Storage::unshared(Arc::new(MemoryStore::new(1 << 20, 8 << 30))),
        }))
    }

    async fn create(&self, id: SessionId) -> Result<()> {
        match self {
            Self::Bare(bare) => bare.create(id).await,
            Self::Store(Storage { store, .. }) => {
                let now = Timestamp::of_wall_clock();
                let later = now.plus(Duration::from_secs(3600));
                let name = Name::trusted("Ada");
                let epoch = Epoch::generate();
                let session = Session {
                    id,
                    name,
                    epoch,
                    created_at: now,
                    expires_at: later,
                    ends_at: later,
                    delete_at: Some(later),
                    title: None,
                    metadata: Metadata::default(),
                    subject: None,
                };
                let token = TokenRecord {
                    id: TokenId::generate(),
                    hash: Token::generate().hash(),
                    scope: Scope::Write,
                    label: None,
                    deadlines: None,
                };
                Ok(store.create(NewSession { session, token, origin: None }).await?)
            }
        }
    }

    /// A user's message and the reply to it, each when the one before is durable.
    async fn turn(&self, session: SessionId, turn: u32) -> Result<()> {
        let (user, reply) = (MessageId::generate(), MessageId::generate());
        let key = format!("m{turn}");
        match self {
            Self::Bare(bare) => {
                let (seq, text, kind) = (turn * 2 + 1, MESSAGE, Kind::User { key });
                bare.write(Row { session, seq, id: user, text, kind }).await?;
                let (seq, text, kind) = (seq + 1, REPLY, Kind::Reply { to: user });
                bare.write(Row { session, seq, id: reply, text, kind }).await
            }
            Self::Store(Storage { turns, .. }) => {
                let now = Timestamp::of_wall_clock();
                let terms = AppendLimits {
                    now,
                    token: TokenId::generate(),
                    expires_at: now.plus(Duration::from_secs(3600)),
                    delete_at: Timestamp::NEVER,
                    has_room: true,
                    budgets: duologue::session::Budgets::default(),
                    max_queued_turns: 16,
                    max_session_messages: u32::MAX,
                };
                let client_message_id = Some(key.into());
                let content = Content::of_text(MESSAGE);
                let question = Question::New { content, parent_seq: None };
                let (metadata, options) = (Metadata::default(), None);
                let turn_of_user =
                    NewTurn { id: user, client_message_id, metadata, options, question };
                let asked = turns.append(session, turn_of_user, terms).await?.message.seq;
                let reply = NewReply {
                    id: reply,
                    content: Content::of_text(REPLY),
                    metadata: Metadata::default(),
                    fields: ReplyFields::new(user, asked, Status::Complete),
                };
                match turns.answer(session, Lease::UNSHARED, reply, now).await? {
                    Answered::Kept(appended)
                        if appended.message.seq == turn * 2 + 2 && !appended.duplicate =>
                    {
                        Ok(())
                    }
                    other => Err(format!("not the next reply: {other:?}").into()),
                }
            }
        }
    }

    async fn close(self) -> Result<()> {
        match self {
            Self::Bare(_) => Ok(()),
            Self::Store(Storage { store, .. }) => Ok(store.close().await?),
        }
    }
}

pub(crate) async fn measure(options: &Options) -> Result<String> {
    let mut rates: BTreeMap<(Subject, usize), Vec<f64>> = BTreeMap::new();
    for round in 0..options.rounds {
        for place in 0..Subject::ALL.len() {
            let subject = Subject::ALL[(place + round) % Subject::ALL.len()];
            for senders in SENDERS {
                eprintln!("round {}/{}: {subject}, {senders}", round + 1, options.rounds);
                let rate = attempt(subject, senders, options).await?;
                rates.entry((subject, senders)).or_default().push(rate);
            }
        }
    }
    report(options, &rates)
}

/// Messages per second.
async fn attempt(subject: Subject, senders: usize, options: &Options) -> Result<f64> {
    let folder = place(options)?;
    let keeper = Keeper::open(subject, &folder.path().join("duologue.db")).await?;
    let begin = Instant::now() + options.window() / 6;
    let end = begin + options.window();
    let mut sending = JoinSet::new();
    for _ in 0..senders {
        let keeper = keeper.clone();
        sending.spawn(async move {
            let session = SessionId::generate();
            keeper.create(session).await?;
            let mut messages = 0;
            for turn in 0.. {
                keeper.turn(session, turn).await?;
                let now = Instant::now();
                if now >= end {
                    break;
                }
                if now >= begin {
                    messages += 2;
                }
            }
            Result::<u64>::Ok(messages)
        });
    }
    let mut messages = 0;
    while let Some(sent) = sending.join_next().await {
        messages += sent??;
    }
    keeper.close().await?;
    Ok(messages as f64 / options.window().as_secs_f64())
}

fn report(options: &Options, rates: &BTreeMap<(Subject, usize), Vec<f64>>) -> Result<String> {
    let mut text = format!(
        "**Messages per second** that the store has acknowledged, by senders at a time: median \
         (least–most), and the share of what the bare loop does. {} s in each of {} rounds.\n\n",
        options.seconds, options.rounds
    );
    let heads = SENDERS.map(|senders| thousands(senders as f64));
    writeln!(text, "| | {} |\n|---|---:|---:|---:|", heads.join(" | "))?;
    for subject in Subject::ALL {
        write!(text, "| {subject} |")?;
        for senders in SENDERS {
            let own = &rates[&(subject, senders)];
            let limit = &rates[&(Subject::Bare, senders)];
            let spread = Spread::of(own.iter().copied()).ok_or("no rounds")?;
            let ratios = own.iter().zip(limit).map(|(own, limit)| own / limit);
            let share = Spread::of(ratios).ok_or("no rounds")?.median * 100.0;
            let [median, least, most] = [spread.median, spread.least, spread.most].map(thousands);
            write!(text, " {median} ({least}–{most})")?;
            match subject {
                Subject::Bare => write!(text, " |")?,
                _ => write!(text, ", **{share:.0} %** |")?,
            }
        }
        writeln!(text)?;
    }
    writeln!(text)?;
    Ok(text)
}
