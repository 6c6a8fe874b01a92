//! The reply in progress of one node, as the streams of another receive it.

use std::{sync::Arc, time::Duration};

use duologue::{
    responder::Simulated,
    session::{
        Caller, DeltaPiece, Event, Gateway, MessageId, Position, Settings, Subscription, Token,
    },
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::support::{Faults, Hub, Node, named, new_message, nodes};

const SECOND: Duration = Duration::from_secs(1);

/// Longer than a lost message goes unnoticed.
const COMPARED: Duration = Duration::from_secs(40);

fn caller() -> Caller {
    Caller::default()
}

/// The content of a reply, as a client puts it together.
#[derive(Debug, Default)]
struct Client {
    seq: u32,
    reply: Option<(MessageId, u32, String)>,
    /// Events of content that were received.
    pieces: usize,
    /// Replies that began, or began again.
    starts: usize,
}

impl Client {
    /// Takes an event. Fails if it does not continue the earlier ones.
    fn take(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Message(event) => {
                let message = &event.message;
                if message.seq != self.seq + 1 {
                    return Err(format!("message {} after {}", message.seq, self.seq));
                }
                self.seq = message.seq;
                let shown = self.reply.take_if(|(id, ..)| *id == message.id);
                // The last deltas may come after the message, and are not needed then.
                if let Some((_, _, text)) = shown
                    && !message.text().starts_with(&text)
                {
                    return Err(format!("{text:?} was shown of {:?}", message.text()));
                }
            }
            Event::ReplyStarted(started) if started.offset == 0 => {
                self.starts += 1;
                self.reply = Some((started.reply, 0, String::new()));
            }
            Event::ReplyStarted(started) => match &self.reply {
                Some((id, end, _)) if (*id, *end) == (started.reply, started.offset) => {}
                shown => return Err(format!("{started:?} does not continue {shown:?}")),
            },
            Event::Delta(delta) => {
                self.pieces += 1;
                let Some((id, end, text)) = &mut self.reply else {
                    return Err("a delta of no reply".into());
                };
                if (*id, *end) != (delta.reply, delta.offset) {
                    return Err(format!("a delta at {} after {end}", delta.offset));
                }
                *end = delta.end;
                let DeltaPiece::Text(piece) = &delta.piece else { return Err("no text".into()) };
                text.push_str(piece);
            }
            Event::ReplyPart(part) => return Err(format!("{part:?}")),
            Event::GoAway(_) => {}
        }
        Ok(())
    }

    /// Reads until the client has this message.
    async fn read_until(&mut self, stream: &mut Subscription, seq: u32) {
        let read = async {
            while self.seq < seq {
                self.take(&stream.next().await.unwrap()).unwrap();
            }
        };
        timeout(2 * COMPARED, read).await.expect("the message arrives");
    }
}

async fn two(hub: &Arc<Hub>, responders: [Simulated; 2]) -> [Node; 2] {
    let started = nodes(hub, Settings::default(), responders, None).await;
    <[Node; 2]>::try_from(started).unwrap_or_else(|_| unreachable!())
}

async fn created(node: &Node) -> Token {
    node.gateway.create_token(&caller(), named("Ada")).await.unwrap().token
}

async fn attached(node: &Node, token: &Token) -> Subscription {
    node.gateway.attach(&caller(), token, None).await.unwrap().0
}

/// A reply of this many pieces, one every 20 ms.
fn long(pieces: usize) -> Simulated {
    Simulated::new(&vec!["wörd"; pieces].join(" "), Duration::from_millis(20))
}

#[tokio::test(start_paused = true)]
async fn deltas_reach_the_streams_of_another_node_as_they_are_produced() {
    let hub = Hub::new(0, Faults::NONE);
    let [one, two] = two(&hub, [long(50), long(50)]).await;
    let token = created(&one).await;
    let (mut here, mut there) = (attached(&one, &token).await, attached(&two, &token).await);
    for turn in 0..3_u32 {
        here.send(new_message("Hi")).end().await.unwrap();
        let (mut own, mut other) = (Client::default(), Client::default());
        (own.seq, other.seq) = (2 * turn, 2 * turn);
        own.read_until(&mut here, 2 * turn + 2).await;
        other.read_until(&mut there, 2 * turn + 2).await;
        // The other stream is read afterwards: its queue merges the deltas.
        assert!(other.pieces >= 1 && other.starts == 1, "{other:?}");
    }
    there.send(new_message("Hi")).end().await.unwrap();
    let began = Instant::now();
    let mut own = Client { seq: 6, ..Client::default() };
    while own.pieces < 10 {
        own.take(&here.next().await.unwrap()).unwrap();
    }
    assert!(began.elapsed() < SECOND / 2, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_attaches_to_another_node_in_the_middle_of_a_reply() {
    let hub = Hub::new(0, Faults::NONE);
    let [one, two] = two(&hub, [long(50), long(50)]).await;
    let token = created(&one).await;
    let here = attached(&one, &token).await;
    here.send(new_message("Hi")).end().await.unwrap();
    sleep(SECOND / 2).await;
    let mut there = attached(&two, &token).await;
    let mut client = Client { seq: 1, ..Client::default() };
    let from = Instant::now();
    client.take(&there.next().await.unwrap()).unwrap();
    assert_eq!(client.starts, 1);
    assert!(from.elapsed() <= Duration::from_millis(20), "{:?}", from.elapsed());
    client.read_until(&mut there, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_moves_between_nodes_within_a_reply_and_continues_where_it_was() {
    let hub = Hub::new(0, Faults::NONE);
    let nodes = two(&hub, [long(60), long(60)]).await;
    let token = created(&nodes[0]).await;
    let mut stream = attached(&nodes[0], &token).await;
    stream.send(new_message("Hi")).end().await.unwrap();
    let mut client = Client::default();
    for number in 1..=5 {
        let until = Instant::now() + SECOND / 5;
        while let Ok(event) = timeout_at(until, stream.next()).await {
            client.take(&event.unwrap()).unwrap();
        }
        let position = stream.position();
        assert!(position.reply.is_some());
        drop(stream);
        let node = &nodes[number % 2];
        let (next, opened) = node.gateway.attach(&caller(), &token, Some(&position)).await.unwrap();
        assert_eq!(opened.position, position, "move {number}");
        stream = next;
    }
    client.read_until(&mut stream, 2).await;
    assert_eq!(client.starts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_clients_have_left_receives_no_more_deltas() {
    let hub = Hub::new(0, Faults::NONE);
    let [one, two] = two(&hub, [long(200), long(200)]).await;
    let token = created(&one).await;
    let here = attached(&one, &token).await;
    let there = attached(&two, &token).await;
    here.send(new_message("Hi")).end().await.unwrap();
    sleep(SECOND).await;
    drop(there);
    sleep(SECOND).await;
    hub.cut(two.id);
    let lost = hub.lost();
    sleep(SECOND / 2).await;
    assert_eq!(hub.lost(), lost, "nothing was sent");
}

#[tokio::test(start_paused = true)]
async fn a_lost_question_is_asked_again_and_lost_deltas_are_sent_again() {
    for cut_before in [true, false] {
        let hub = Hub::new(0, Faults::NONE);
        let [one, two] = two(&hub, [long(300), long(300)]).await;
        let token = created(&one).await;
        let (here, mut there) = (attached(&one, &token).await, attached(&two, &token).await);
        if cut_before {
            // The note arrives, the question is lost.
            here.send(new_message("Hi")).end().await.unwrap();
            hub.cut(two.id);
        } else {
            here.send(new_message("Hi")).end().await.unwrap();
            sleep(SECOND / 2).await;
            hub.cut(two.id);
        }
        sleep(SECOND / 4).await;
        hub.restore(two.id);
        let mut client = Client::default();
        let from = Instant::now();
        while client.pieces < 40 {
            let event = timeout(5 * SECOND, there.next()).await;
            let event = event.unwrap_or_else(|_| panic!("{cut_before}: {client:?}"));
            client.take(&event.unwrap()).unwrap();
        }
        assert!(from.elapsed() < 3 * SECOND, "{:?}", from.elapsed());
        client.read_until(&mut there, 2).await;
    }
}

/// Clients on every node follow the replies of turns that are sent on any node, while the network
/// loses, repeats, delays and reorders what the nodes tell each other.
async fn history(seed: u64) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let ms = Duration::from_millis;
    let faults = Faults {
        delay: ms(seed % 5 * 15),
        loses_one_in: [0, 3, 7][seed as usize % 3],
        repeats_one_in: [0, 4][seed as usize % 2],
    };
    let hub = Hub::new(seed, faults);
    let jitter = (!seed.is_multiple_of(4)).then(|| (seed, ms(seed % 4 * 2)));
    let started = nodes(&hub, Settings::default(), [long(12), long(12), long(12)], jitter).await;
    let created = started[0].gateway.create_token(&caller(), named("Ada")).await.unwrap();
    let (token, start) = (created.token, Position::new(created.session.epoch, 0));
    const TURNS: u32 = 6;
    let follow = async |gateway: Gateway, mut random: StdRng, wanders: bool| {
        let (mut client, mut position) = (Client::default(), start.clone());
        while client.seq < 2 * TURNS {
            let attached = gateway.attach(&caller(), &token, Some(&position)).await;
            let (mut stream, opened) = attached.map_err(|error| error.to_string())?;
            if !opened.recovered {
                return Err("not recovered".to_owned());
            }
            if opened.position.reply.is_none() {
                client.reply = None;
            }
            let stay = if wanders { ms(random.random_range(0..300)) } else { 3 * COMPARED };
            let until = Instant::now() + stay;
            while client.seq < 2 * TURNS
                && let Ok(event) = timeout_at(until, stream.next()).await
            {
                client.take(&event.map_err(|error| error.to_string())?)?;
            }
            position = stream.position();
            if !wanders && client.seq < 2 * TURNS {
                return Err(format!("stuck: {client:?}"));
            }
        }
        Ok(if wanders { TURNS as usize } else { client.starts })
    };
    let clients = (0..4).map(|number| {
        let gateway = started[number % 3].gateway.clone();
        follow(gateway, StdRng::seed_from_u64(seed + number as u64), number == 3)
    });
    let sends = async {
        for turn in 0..TURNS {
            let gateway = &started[random.random_range(0..3)].gateway;
            let text = format!("m{turn}");
            gateway.send(&caller(), &token, new_message(&text)).await.unwrap();
            sleep(ms(random.random_range(0..400))).await;
        }
    };
    let (followed, ()) = tokio::join!(futures_util::future::join_all(clients), sends);
    for (number, followed) in followed.into_iter().enumerate() {
        let starts = followed.map_err(|violation| format!("client {number}: {violation}"))?;
        if faults.loses_one_in == 0 && starts < TURNS as usize {
            return Err(format!("client {number} has seen {starts} replies begin"));
        }
    }
    for node in started {
        node.gateway.drain(Instant::now()).await;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn any_history_shows_each_reply_without_gap_or_repetition_on_every_node() {
    for seed in 0..300 {
        if let Err(violation) = history(seed).await {
            panic!("seed {seed}: {violation}");
        }
    }
}
