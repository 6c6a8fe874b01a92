//! Schedules of threads: shuttle runs each test many times and chooses which thread continues at
//! each lock. A lost wake-up is a deadlock, which shuttle reports.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Poll, Waker},
};

use shuttle::{check_pct, check_random, future::block_on, thread};

use super::{
    eager_task::spawn_eager,
    live::{
        encoded::EncodedForms,
        event::{Delta, DeltaPiece, Event, EventFilter},
        subscriber_queue::{QueueCapacity, SubscriberQueue},
    },
    model::{ErrorKind, MessageId, Result, TokenId},
    sync::Mutex,
    turn::cancel::{CancelReason, CancelSignal},
};

const RUNS: usize = 2_000;

/// Explores schedules that are random, and such with few changes of the thread.
fn explore(test: impl Fn() + Send + Sync + Clone + 'static) {
    check_random(test.clone(), RUNS);
    check_pct(test, RUNS, 3);
}

fn queue(events: usize) -> Arc<SubscriberQueue> {
    let capacity = QueueCapacity { events, bytes: usize::MAX };
    Arc::new(SubscriberQueue::new(capacity, EventFilter::All, TokenId::generate()))
}

fn delta(reply: MessageId, offset: u32) -> Event {
    let piece = DeltaPiece::Text(Arc::new("x".into()));
    let encoded = EncodedForms::default();
    Event::Delta(Delta { reply, index: 0, offset, end: offset + 1, piece, done: false, encoded })
}

/// Reads a queue to its end. Returns the offset that it reached and the reason of the end.
async fn read(queue: &SubscriberQueue) -> (u32, ErrorKind) {
    let mut end = 0;
    loop {
        match poll_fn(|cx| queue.poll_next(cx)).await {
            Ok(Event::Delta(delta)) => {
                assert_eq!(delta.offset, end);
                end = delta.end;
            }
            Ok(other) => panic!("{other:?}"),
            Err(why) => return (end, why),
        }
    }
}

#[test]
fn a_reader_receives_every_delta_and_then_the_reason() {
    explore(|| {
        let (queue, reply) = (queue(8), MessageId::generate());
        let sender = Arc::clone(&queue);
        let sender = thread::spawn(move || {
            (0..4).for_each(|offset| sender.push(&delta(reply, offset)));
            sender.close(ErrorKind::Draining);
        });
        assert_eq!(block_on(read(&queue)), (4, ErrorKind::Draining));
        sender.join().unwrap();
    });
}

#[test]
fn of_two_reasons_one_ends_the_reader() {
    explore(|| {
        let queue = queue(8);
        let closers = [ErrorKind::Draining, ErrorKind::SessionRevoked].map(|why| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || match why {
                ErrorKind::Draining => queue.close(why),
                _ => queue.close_now(why),
            })
        });
        let (_, why) = block_on(read(&queue));
        assert!(matches!(why, ErrorKind::Draining | ErrorKind::SessionRevoked));
        closers.into_iter().for_each(|closer| closer.join().unwrap());
        // The one that cannot wait replaces the other.
        assert_eq!(block_on(read(&queue)).1, ErrorKind::SessionRevoked);
    });
}

#[test]
fn a_queue_overflows_for_its_reader_alone() {
    explore(|| {
        let (small, large) = (queue(1), queue(64));
        let replies = [MessageId::generate(), MessageId::generate()];
        let both = [Arc::clone(&small), Arc::clone(&large)];
        let sender = thread::spawn(move || {
            for reply in replies.iter().cycle().take(4) {
                both.iter().for_each(|queue| queue.push(&delta(*reply, 0)));
            }
            both.iter().for_each(|queue| queue.close(ErrorKind::Draining));
        });
        let count = |queue: &Arc<SubscriberQueue>| {
            let mut received = 0;
            block_on(async {
                loop {
                    match poll_fn(|cx| queue.poll_next(cx)).await {
                        Ok(_) => received += 1,
                        Err(why) => return (received, why),
                    }
                }
            })
        };
        let (received, why) = count(&small);
        assert!(matches!(
            (received, why),
            (4, ErrorKind::Draining) | (0..4, ErrorKind::SlowConsumer)
        ));
        assert_eq!(count(&large), (4, ErrorKind::Draining));
        sender.join().unwrap();
    });
}

#[test]
fn a_reply_is_cancelled_once_and_its_task_is_woken() {
    explore(|| {
        let signal = Arc::new(CancelSignal::default());
        let cancels = [CancelReason::Stop, CancelReason::Ended].map(|reason| {
            let signal = Arc::clone(&signal);
            thread::spawn(move || signal.cancel(reason))
        });
        let first = block_on(signal.cancelled());
        cancels.into_iter().for_each(|cancel| cancel.join().unwrap());
        assert_eq!(signal.reason(), Some(first));
    });
}

#[test]
fn a_wake_up_between_the_first_poll_and_the_task_is_not_lost() {
    explore(|| {
        let signal = Arc::new(CancelSignal::default());
        let cancel = Arc::clone(&signal);
        let cancel = thread::spawn(move || cancel.cancel(CancelReason::Stop));
        let work = Arc::clone(&signal);
        let task = spawn_eager(async move { Result::Ok(work.cancelled().await) });
        assert_eq!(block_on(task.end()).unwrap(), CancelReason::Stop);
        cancel.join().unwrap();
    });
}

/// The tests above find the fault that they are made for.
#[test]
#[should_panic(expected = "deadlock")]
fn a_waker_that_is_registered_after_the_check_is_found() {
    #[derive(Default)]
    struct Faulty {
        done: Mutex<bool>,
        waiter: Mutex<Option<Waker>>,
    }
    explore(|| {
        let faulty = Arc::new(Faulty::default());
        let setter = Arc::clone(&faulty);
        let setter = thread::spawn(move || {
            *setter.done.lock().unwrap() = true;
            if let Some(waiter) = setter.waiter.lock().unwrap().take() {
                waiter.wake();
            }
        });
        block_on(poll_fn(|cx| {
            if *faulty.done.lock().unwrap() {
                return Poll::Ready(());
            }
            *faulty.waiter.lock().unwrap() = Some(cx.waker().clone());
            Poll::Pending
        }));
        setter.join().unwrap();
    });
}
