use super::*;
use crate::{
    session::ErrorKind,
    store::{Durability, sqlite::schema},
};

#[tokio::test]
async fn a_write_that_panics_fails_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let opened = schema::open(&folder.path().join("duologue.db"), Durability::Full).unwrap();
    let trust = FailureSignal::new();
    let writer = Writer::start(opened, trust.clone()).unwrap();
    let panicked = writer.write(|_| -> WriteResult<()> { panic!("as the test wants it") }).await;
    assert!(panicked.is_err());
    let cause = trust.lost().await;
    assert_eq!(cause.kind(), ErrorKind::Internal);
    assert!(writer.write(|_| Ok(())).await.is_err());
}
