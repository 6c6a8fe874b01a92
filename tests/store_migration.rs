//! Files of older gateways: brought to the present in one piece, with what is in them.

use std::path::Path;

use duologue::{
    session::{Page, SessionId, Store as _, Timestamp, Usage},
    store::{Durability, SqliteStore},
};
use rusqlite::Connection;

const NOW: Timestamp = Timestamp::from_millis(1_000);
const ALL: Page = Page { after: Some(0), until: u32::MAX, limit: u32::MAX, max_size: usize::MAX };

/// A file as the first version left it.
fn first_version(path: &Path) -> Connection {
    let file = Connection::open(path).unwrap();
    file.execute_batch(
        "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;
         PRAGMA application_id = 0x44554f4c; PRAGMA user_version = 1;",
    )
    .unwrap();
    file.execute_batch(include_str!("../src/store/sqlite/schema_1.sql")).unwrap();
    file
}

fn session(file: &Connection, number: u8, head: u32) -> SessionId {
    file.execute(
        "INSERT INTO sessions VALUES (?1, ?2, 'Ada', 'e1', 0, 9000, 9000, ?3)",
        (vec![number; 16], vec![number; 32], head),
    )
    .unwrap();
    SessionId::from_bytes([number; 16])
}

/// A turn, and the usage of its reply if it is known.
fn turn(file: &Connection, session: u8, seq: u32, took: Option<(u32, u32, bool)>) {
    let id = |seq: u32| vec![u8::try_from(seq).unwrap(); 16];
    file.execute(
        "INSERT INTO messages (session, seq, id, text, created_at) VALUES (?1, ?2, ?3, 'x', 0)",
        (vec![session; 16], seq, id(seq)),
    )
    .unwrap();
    file.execute(
        "INSERT INTO messages (session, seq, id, text, created_at, in_reply_to, status,
         input_tokens, output_tokens, usage_estimated)
         VALUES (?1, ?2, ?3, 'y', 0, ?4, 'complete', ?5, ?6, ?7)",
        (
            vec![session; 16],
            seq + 1,
            id(seq + 1),
            id(seq),
            took.map(|took| took.0),
            took.map(|took| took.1),
            took.map(|took| took.2),
        ),
    )
    .unwrap();
}

fn schema(path: &Path) -> (i32, Vec<String>) {
    let file = Connection::open(path).unwrap();
    let version = file.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let mut tables = file.prepare("SELECT coalesce(sql, '') FROM sqlite_schema ORDER BY name");
    let tables = tables.as_mut().unwrap().query_map([], |row| row.get(0)).unwrap();
    (version, tables.collect::<Result<_, _>>().unwrap())
}

#[tokio::test]
async fn a_file_of_the_first_version_keeps_its_logs_and_gets_their_sums() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let file = first_version(&path);
    let cases = [
        (session(&file, 1, 4), Usage { input_tokens: 11, output_tokens: 22, estimated: false }),
        (session(&file, 2, 4), Usage { input_tokens: 11, output_tokens: 22, estimated: true }),
        (session(&file, 3, 4), Usage { input_tokens: 1, output_tokens: 2, estimated: true }),
        (session(&file, 4, 0), Usage::default()),
        (
            session(&file, 5, 4),
            Usage { input_tokens: u32::MAX, output_tokens: u32::MAX, estimated: false },
        ),
    ];
    turn(&file, 1, 1, Some((1, 2, false)));
    turn(&file, 1, 3, Some((10, 20, false)));
    turn(&file, 2, 1, Some((1, 2, true)));
    turn(&file, 2, 3, Some((10, 20, false)));
    turn(&file, 3, 1, Some((1, 2, false)));
    turn(&file, 3, 3, None);
    turn(&file, 5, 1, Some((u32::MAX, u32::MAX - 1, false)));
    turn(&file, 5, 3, Some((1, 2, false)));
    drop(file);

    for _ in ["the first time", "and again"] {
        let store = SqliteStore::open(&path, Durability::Full).unwrap();
        for (id, usage) in cases {
            let look = store.read(id, NOW, ALL).await.unwrap();
            assert_eq!(look.usage, usage, "{id}");
            assert_eq!(look.messages.len() as u32, look.head_seq);
        }
        store.close().await.unwrap();
        drop(store);
    }

    let new = folder.path().join("new.db");
    let store = SqliteStore::open(&new, Durability::Full).unwrap();
    store.close().await.unwrap();
    assert_eq!(schema(&path), schema(&new), "old files and new ones are the same from here on");
}

#[test]
fn a_file_that_cannot_be_brought_to_the_present_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let file = first_version(&path);
    // In the way of the second of the new columns.
    file.execute_batch("ALTER TABLE sessions ADD COLUMN output_tokens TEXT").unwrap();
    drop(file);
    let before = schema(&path);
    let refused = SqliteStore::open(&path, Durability::Full).unwrap_err();
    assert!(refused.to_string().contains("output_tokens"), "{refused}");
    assert_eq!(schema(&path), before);
}
