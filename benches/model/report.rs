//! The tables.

use std::{collections::BTreeMap, fmt};

use crate::{Load, Options, Shape, Subject, spread::Spread, thousands::thousands};

/// The one the others are compared with.
const PEER: Subject = Subject::LiteLlm;

/// Numbers of the shapes.
const ONE: usize = 0;
const MANY: usize = 1;
const FLAT_OUT: usize = 2;

/// All that was measured; displayed as Markdown.
pub(crate) struct Report {
    rounds: usize,
    shapes: [Shape; 3],
    subjects: Vec<Subject>,
    /// In the order of the rounds, by subject and number of the shape.
    loads: BTreeMap<(Subject, usize), Vec<Load>>,
    memory: BTreeMap<Subject, f64>,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(options: &Options, subjects: &[Subject]) -> Self {
        Self {
            rounds: options.rounds,
            shapes: options.shapes(),
            subjects: subjects.to_vec(),
            loads: BTreeMap::new(),
            memory: BTreeMap::new(),
        }
    }

    /// Adds a round.
    pub(crate) fn load(&mut self, subject: Subject, shape: usize, load: Load) {
        self.loads.entry((subject, shape)).or_default().push(load);
    }

    /// Adds what is measured once: bytes per reply.
    pub(crate) fn memory(&mut self, subject: Subject, bytes: f64) {
        self.memory.insert(subject, bytes);
    }

    /// The rounds of a subject and shape.
    fn rounds(&self, subject: Subject, shape: usize) -> &[Load] {
        self.loads.get(&(subject, shape)).map_or(&[], Vec::as_slice)
    }

    /// The median of some number of the rounds.
    fn median(
        &self,
        subject: Subject,
        shape: usize,
        number: impl Fn(&Load) -> Option<f64>,
    ) -> Option<f64> {
        let numbers = self.rounds(subject, shape).iter().filter_map(number);
        Spread::of(numbers).map(|spread| spread.median)
    }

    /// What a subject adds to a time of the model itself, round by round.
    fn added(
        &self,
        subject: Subject,
        shape: usize,
        time: impl Fn(&Load) -> Option<f64>,
    ) -> impl Iterator<Item = f64> {
        let direct = self.rounds(Subject::Direct, shape).iter();
        let rounds = self.rounds(subject, shape).iter().zip(direct);
        rounds.filter_map(move |(own, direct)| Some(time(own)? - time(direct)?))
    }

    /// A time in milliseconds, what of it was added, and how much of what the peer adds.
    fn latency(
        &self,
        subject: Subject,
        shape: usize,
        time: impl Fn(&Load) -> Option<f64> + Copy,
    ) -> Option<String> {
        let Some(whole) = self.median(subject, shape, time) else { return Some("–".into()) };
        if subject == Subject::Direct {
            return Some(format!("{whole:.2}"));
        }
        let added = Spread::of(self.added(subject, shape, time))?.median;
        let text = format!("{whole:.2}, {added:+.2}");
        let peers = self.added(PEER, shape, time);
        let shares = self.added(subject, shape, time).zip(peers).map(|(own, peer)| own / peer);
        Some(match Spread::of(shares) {
            Some(share) if subject != PEER => format!("{text}, **{:.1} %**", share.median * 100.0),
            _ => text,
        })
    }

    /// Deltas per second, their spread, and how many times the peer's of the same round.
    fn throughput(&self, subject: Subject) -> Option<String> {
        let own = self.rounds(subject, FLAT_OUT);
        let rates = Spread::of(own.iter().map(|load| load.deltas_per_second))?;
        let [median, least, most] = [rates.median, rates.least, rates.most].map(thousands);
        let text = format!("{median} ({least}–{most})");
        let peers = self.rounds(PEER, FLAT_OUT).iter();
        let ratios =
            own.iter().zip(peers).map(|(own, peer)| own.deltas_per_second / peer.deltas_per_second);
        Some(match Spread::of(ratios) {
            Some(ratio) if ![PEER, Subject::Direct, Subject::Relay].contains(&subject) => {
                format!("{text}, **{:.0}×**", ratio.median)
            }
            _ => text,
        })
    }

    /// Processor time per delta in microseconds, and how many times less than the peer's.
    fn cost(&self, subject: Subject, shape: usize) -> Option<String> {
        let own = self.median(subject, shape, |load| load.server_micros)?;
        let text = format!("{own:.1}");
        Some(match self.median(PEER, shape, |load| load.server_micros) {
            Some(peer) if subject != PEER => format!("{text}, **1/{:.0}**", peer / own),
            _ => text,
        })
    }

    /// A table with a row for each subject that has one.
    fn table<const N: usize>(
        &self,
        f: &mut fmt::Formatter<'_>,
        head: [&str; N],
        row: impl Fn(Subject) -> Option<[String; N]>,
    ) -> fmt::Result {
        writeln!(f, "| | {} |", head.join(" | "))?;
        writeln!(f, "|---|{}", "---:|".repeat(N))?;
        for &subject in &self.subjects {
            if let Some(cells) = row(subject) {
                writeln!(f, "| {subject} | {} |", cells.join(" | "))?;
            }
        }
        writeln!(f)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, many, flat] = self.shapes;
        let others = self.loads.values().flatten().map(|load| load.others_share);
        let [at_one, at_many] = [one, many].map(|shape| {
            let plural = if shape.replies == 1 { "reply" } else { "replies" };
            format!("{} {plural}", shape.replies)
        });
        writeln!(
            f,
            "**Added latency**, in ms: the time, what of it is added to the model's own, and \
             that as a share of what LiteLLM adds. At {at_one} at a time ({} deltas, one every \
             {:?}) and at {at_many} ({} deltas, one every {:?}); {:?} in each of {} rounds. \
             Other processes took {:.0} % of a core at most.\n",
            one.script.deltas,
            one.script.interval,
            many.script.deltas,
            many.script.interval,
            one.measured,
            self.rounds,
            others.fold(0.0, f64::max) * 100.0
        )?;
        writeln!(f, "From the question to the first text:\n")?;
        let head = ["p50", "p99"].map(|p| [&at_one, &at_many].map(|at| format!("{p}, {at}")));
        let [[p50_one, p50_many], [p99_one, p99_many]] = &head;
        let head: [&str; 4] = [p50_one, p99_one, p50_many, p99_many];
        self.table(f, head, |subject| {
            Some([
                self.latency(subject, ONE, |load| Some(load.first?.0))?,
                self.latency(subject, ONE, |load| Some(load.first?.1))?,
                self.latency(subject, MANY, |load| Some(load.first?.0))?,
                self.latency(subject, MANY, |load| Some(load.first?.1))?,
            ])
        })?;
        writeln!(f, "Of each later delta, from the model's write to the client's read:\n")?;
        self.table(f, head, |subject| {
            Some([
                self.latency(subject, ONE, |load| Some(load.under_way?.0))?,
                self.latency(subject, ONE, |load| Some(load.under_way?.1))?,
                self.latency(subject, MANY, |load| Some(load.under_way?.0))?,
                self.latency(subject, MANY, |load| Some(load.under_way?.1))?,
            ])
        })?;

        writeln!(
            f,
            "**Deltas per second** through one server core: {} replies at a time of {} deltas \
             each, from a model that writes without pauses: median (least–most), and the ratio to \
             LiteLLM's median. A client that reads more slowly than the model writes receives \
             several deltas in one event. The last column is the share of its own core that the \
             load generator used, for the model and the clients together.\n",
            flat.replies, flat.script.deltas
        )?;
        self.table(f, ["deltas/s", "deltas per event", "generator"], |subject| {
            let per_event = self.median(subject, FLAT_OUT, |load| Some(load.deltas_per_event))?;
            let share = self.median(subject, FLAT_OUT, |load| Some(load.generator_share))?;
            let share = format!("{:.0} %", share * 100.0);
            Some([self.throughput(subject)?, format!("{per_event:.1}"), share])
        })?;

        writeln!(
            f,
            "**Processor time of the server per delta**, in µs, the kernel's part and a reply's \
             beginning and end included, and what part of LiteLLM's; the share of its core that \
             the server took at {at_many}; and **resident bytes** that it grew by for each of {} \
             at a time.\n",
            at_many
        )?;
        let head = [&format!("at {at_many}"), "of its core", "flat out", "bytes per reply"];
        self.table(f, head, |subject| {
            let share = self.median(subject, MANY, |load| load.server_share)? * 100.0;
            let bytes = thousands(*self.memory.get(&subject)?);
            let many = self.cost(subject, MANY)?;
            Some([many, format!("{share:.0} %"), self.cost(subject, FLAT_OUT)?, bytes])
        })
    }
}
