//! The tables.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    frames,
    idle::Idle,
    load::{Load, SHAPES, Shape},
    options::Options,
    spread::Spread,
    subject::Subject,
    thousands::thousands,
};

/// The one the others are compared with.
const PEER: Subject = Subject::FastApi;

/// All that was measured; displayed as Markdown.
pub(crate) struct Report {
    conditions: String,
    subjects: Vec<Subject>,
    /// In the order of the rounds.
    loads: BTreeMap<(Subject, Shape), Vec<Load>>,
    frames: BTreeMap<Subject, Vec<Duration>>,
    idle: BTreeMap<Subject, Idle>,
    connections: usize,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(options: &Options, subjects: &[Subject]) -> Self {
        let Options { rounds, seconds, .. } = options;
        Self {
            conditions: format!("{seconds} s in each of {rounds} rounds"),
            subjects: subjects.to_vec(),
            loads: BTreeMap::new(),
            frames: BTreeMap::new(),
            idle: BTreeMap::new(),
            connections: options.connections,
        }
    }

    /// Adds a round.
    pub(crate) fn load(&mut self, subject: Subject, shape: Shape, load: Load) {
        self.loads.entry((subject, shape)).or_default().push(load);
    }

    /// Adds a round.
    pub(crate) fn frames(&mut self, subject: Subject, time: Duration) {
        self.frames.entry(subject).or_default().push(time);
    }

    /// Adds what is measured once.
    pub(crate) fn idle(&mut self, subject: Subject, idle: Idle) {
        self.idle.insert(subject, idle);
    }

    /// The rounds of a subject and shape.
    fn rounds(&self, subject: Subject, shape: Shape) -> &[Load] {
        self.loads.get(&(subject, shape)).map_or(&[], Vec::as_slice)
    }

    /// Turns per second, their spread, and how many times the peer's of the same round.
    fn turns_per_second(&self, subject: Subject, shape: Shape) -> Option<String> {
        let own = self.rounds(subject, shape);
        let rates = Spread::of(own.iter().map(|load| load.turns_per_second))?;
        let text = format!(
            "{} ({}–{})",
            thousands(rates.median),
            thousands(rates.least),
            thousands(rates.most)
        );
        let ratios = own
            .iter()
            .zip(self.rounds(PEER, shape))
            .map(|(own, peer)| own.turns_per_second / peer.turns_per_second);
        Some(match Spread::of(ratios) {
            Some(ratio) if subject != PEER => format!("{text}, **{:.1}×**", ratio.median),
            _ => text,
        })
    }

    /// Turns per second with the disk, as a share of those without in the same round.
    fn share_of_memory(&self, subject: Subject, shape: Shape) -> Option<String> {
        let memory = self.rounds(subject.in_memory()?, shape);
        let rounds = self.rounds(subject, shape).iter().zip(memory);
        let shares = rounds.map(|(own, memory)| own.turns_per_second / memory.turns_per_second);
        Some(format!("{:.0} %", Spread::of(shares)?.median * 100.0))
    }

    /// The median of some number of the rounds.
    fn median(
        &self,
        subject: Subject,
        shape: Shape,
        number: impl Fn(&Load) -> Option<f64>,
    ) -> Option<f64> {
        let numbers = self.rounds(subject, shape).iter().filter_map(number);
        Spread::of(numbers).map(|spread| spread.median)
    }

    /// A table with a row for each subject.
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
        let [one, many, deep] = SHAPES;
        let others = self.loads.values().flatten().map(|load| load.others_share);
        writeln!(
            f,
            "**Turns per second** on one server core: median (least–most), and how many times \
             the peer's. Connections × messages in flight on each; {}. Other processes took \
             {:.0} % of a core at most.\n",
            self.conditions,
            others.fold(0.0, f64::max) * 100.0
        )?;
        let heads = SHAPES.map(|shape| shape.to_string());
        self.table(f, heads.each_ref().map(String::as_str), |subject| {
            let [one, many, deep] = SHAPES.map(|shape| self.turns_per_second(subject, shape));
            Some([one?, many?, deep?])
        })?;

        if self.subjects.iter().any(|subject| subject.in_memory().is_some()) {
            writeln!(
                f,
                "**What the disk costs**: turns per second with `sqlite`, each message on the \
                 disk before it is acknowledged, as a share of those with `memory`.\n"
            )?;
            self.table(f, heads.each_ref().map(String::as_str), |subject| {
                let [one, many, deep] = SHAPES.map(|shape| self.share_of_memory(subject, shape));
                Some([one?, many?, deep?])
            })?;
        }

        writeln!(
            f,
            "**Time of one turn** as the client sees it, in µs, at one message in flight.\n"
        )?;
        let head = [
            &format!("p50, {one}"),
            &format!("p99, {one}"),
            &format!("p50, {many}"),
            &format!("p99, {many}"),
        ];
        self.table(f, head.map(String::as_str), |subject| {
            let p50 = |shape| self.median(subject, shape, |load| Some(load.turn_micros?.0));
            let p99 = |shape| self.median(subject, shape, |load| Some(load.turn_micros?.1));
            Some([p50(one)?, p99(one)?, p50(many)?, p99(many)?].map(thousands))
        })?;

        writeln!(
            f,
            "**Processor time of the server per turn**, in µs, the kernel's part included; and \
             the share of its own core that the load generator took at {many} (near 100 % the \
             server had time to spare).\n"
        )?;
        let head = [&one.to_string(), &many.to_string(), &deep.to_string(), "generator"];
        self.table(f, head, |subject| {
            let micros = |shape| self.median(subject, shape, |load| Some(load.server_micros));
            let share = self.median(subject, many, |load| Some(load.generator_share))?;
            Some([
                format!("{:.1}", micros(one)?),
                format!("{:.1}", micros(many)?),
                format!("{:.1}", micros(deep)?),
                format!("{:.0} %", share * 100.0),
            ])
        })?;

        writeln!(
            f,
            "**Resident bytes** of the server for each of {} idle connections; every column \
             holds the one before it.\n",
            thousands(self.connections as f64)
        )?;
        let head = ["a session", "… and attached", "… and after one turn"];
        self.table(f, head, |subject| {
            let idle = self.idle.get(&subject)?;
            Some([idle.session, idle.attached, idle.after_turn].map(thousands))
        })?;

        writeln!(
            f,
            "**{} turns of two small writes each**, one after the other, in ms; about 40 for \
             each turn where Nagle's algorithm is left on.\n",
            frames::TURNS
        )?;
        self.table(f, ["median", "most"], |subject| {
            let times = self.frames.get(&subject)?;
            let spread = Spread::of(times.iter().map(|time| time.as_secs_f64() * 1e3))?;
            Some([spread.median, spread.most].map(|time| format!("{time:.1}")))
        })
    }
}
