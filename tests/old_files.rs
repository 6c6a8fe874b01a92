//! Files of gateways before messages had parts: refused with the way out, and left as they were.

use duologue::store::{Durability, SqliteFile, SqliteStore};
use rusqlite::Connection;

#[test]
fn a_file_of_an_earlier_version_is_refused_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    for version in 1..=3 {
        let path = folder.path().join(format!("{version}.db"));
        let file = Connection::open(&path).unwrap();
        file.execute_batch(&format!(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;
             PRAGMA application_id = 0x44554f4c; PRAGMA user_version = {version};"
        ))
        .unwrap();
        file.execute_batch(include_str!("data/old_schema_3.sql")).unwrap();
        file.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        drop(file);
        let before = std::fs::read(&path).unwrap();
        for refused in [
            SqliteStore::open(&path, Durability::Full).unwrap_err(),
            SqliteFile::open(&path).unwrap_err(),
            SqliteFile::open_for_changes(&path).unwrap_err(),
            SqliteFile::open_or_make(&path).unwrap_err(),
        ] {
            let line = refused.to_string();
            assert!(line.contains(&format!("(schema {version})")), "{line}");
            assert!(line.contains("`duologue sessions export`") && !line.contains('\n'), "{line}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}
