//! How fast names are answered, beside dnsmasq, aardvark-dns and servers that know nothing.
//!
//! The server under test has one processor, the load the other. Every contender is in a namespace
//! of its own with the same names and the same upstream server; they take turns within a round, so
//! that whatever else the machine does hits all of them alike, and those that wait have nothing to
//! do. Medians of the rounds; `name=value` lines come last.

#![allow(clippy::expect_used, reason = "a benchmark without its namespaces says so and ends")]

mod batch;
mod churn;
mod contender;
mod cores;
mod echo;
mod load;
mod outside;
mod peers;
mod polite;
mod questions;
mod results;
mod tables;
mod upstream;

use std::process::ExitCode;

use contender::Contender;
use load::{Load, Way};
use outside::Outside;
use peers::{Peers, Setup};
use questions::Questions;
use results::{ONE, Results};
use tables::Table;
use tempfile::TempDir;

const ROUNDS: u32 = 5;
const POLITE_ROUNDS: u32 = 3;
/// An agent with 1,000 names beside those with 100,000.
const FEW: &str = "tether_1000";
/// The case in which tables change meanwhile.
const CHURN: &str = "churn";

fn main() -> ExitCode {
    if !cores::enough() {
        eprintln!("two processors are needed, 0 and 1: one for the server, one for the load");
        return ExitCode::FAILURE;
    }
    cores::pin(cores::LOAD);
    // cargo says --bench.
    let cases = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let bench = Bench { outside: Outside::new(), peers: Peers::find(), cases };
    let (few, many) = (Table::new(1_000), Table::new(100_000));
    let mut results = Results::default();
    bench.thousand(&few, &mut results);
    bench.hundred_thousand(&many, &few, &mut results);
    bench.cached(&few, &mut results);
    bench.churn(&few, &mut results);
    results.print();
    ExitCode::SUCCESS
}

struct Bench {
    outside: Outside,
    peers: Peers,
    /// Those that are asked for, all when there are none.
    cases: Vec<String>,
}

impl Bench {
    /// Whether a case is to be measured.
    fn wants(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|wanted| wanted == case)
    }

    /// 1,000 names, nothing kept of what the upstream server says.
    fn thousand(&self, table: &Table, results: &mut Results) {
        if !["a", "mixed", "ptr", "nxdomain", "forward", ONE, "polite"].iter().any(|case| self.wants(case)) {
            return;
        }
        let contenders = self.start(Setup { table, cache: false, changing: false });
        let mut turns = |case, questions: &dyn Fn(&Contender) -> Questions, way| {
            if self.wants(case) {
                turns(case, &contenders, questions, way, results);
            }
        };
        turns("a", &|_| Questions::a(table), Way::Hard);
        turns("mixed", &|_| Questions::mixed(table), Way::Hard);
        turns("ptr", &|_| Questions::ptr(table), Way::Hard);
        turns("nxdomain", &|one| Questions::nxdomain(one.suffix), Way::Hard);
        turns("forward", &|_| Questions::fresh(), Way::Hard);
        turns(ONE, &|_| Questions::a(table), Way::One);
        resident("rss_kib", &contenders, results);
        if self.wants("polite") {
            polite(table, &contenders, results);
        }
    }

    /// 100,000 names, and in turn with them an agent of ours that has few.
    fn hundred_thousand(&self, table: &Table, few: &Table, results: &mut Results) {
        if !self.wants("names100k") {
            return;
        }
        let mut contenders = self.start(Setup { table, cache: false, changing: false });
        let setup = Setup { table: few, cache: false, changing: false };
        contenders.push(peers::tether(FEW, &self.outside, setup));
        let questions = |one: &Contender| Questions::a(if one.name == FEW { few } else { table });
        turns("names100k", &contenders, questions, Way::Hard, results);
        resident("rss100k_kib", &contenders, results);
    }

    fn cached(&self, table: &Table, results: &mut Results) {
        if !self.wants("forward_cached") {
            return;
        }
        let contenders = self.start(Setup { table, cache: true, changing: false });
        turns("forward_cached", &contenders, |_| Questions::repeated(), Way::Hard, results);
    }

    fn churn(&self, table: &Table, results: &mut Results) {
        if !self.wants(CHURN) {
            return;
        }
        let contenders = self.start(Setup { table, cache: false, changing: true });
        turns(CHURN, &contenders, |_| Questions::a(table), Way::Hard, results);
    }

    fn start(&self, setup: Setup) -> Vec<Contender> {
        eprintln!(
            "{} names, {} ...",
            setup.table.containers().len(),
            match setup {
                Setup { changing: true, .. } => "one of them replaced 100 times a second",
                Setup { cache: true, .. } => "with caches",
                Setup { .. } => "without caches",
            }
        );
        self.peers.start(&self.outside, setup)
    }
}

/// Rounds in which all contenders have a turn at a case. Who does not answer rightly has none.
fn turns(
    case: &'static str,
    contenders: &[Contender],
    questions: impl Fn(&Contender) -> Questions,
    way: Way,
    results: &mut Results,
) {
    let mut taking_part = Vec::new();
    for contender in contenders {
        let questions = questions(contender);
        match load(contender, &questions, 0).verify() {
            Ok(()) => taking_part.push((contender, questions)),
            Err(wrong) => eprintln!("  {case}: {} is left out: {wrong}", contender.name),
        }
    }
    for round in 1..=ROUNDS {
        for (contender, questions) in &taking_part {
            let load = load(contender, questions, round);
            let turn = || load.measure(way, || contender.cpu());
            let measured = match &contender.changes {
                Some(changes) if case == CHURN => {
                    let (measured, rate) = changes.during(turn);
                    results.add_number("churn_changes_per_s", contender.name, rate);
                    measured
                }
                _ => turn(),
            };
            results.add(case, contender.name, measured);
        }
        eprintln!("  {case}: {round} of {ROUNDS}");
    }
    for silent in results.forget_silent(case) {
        eprintln!("  {case}: {silent} is left out: it answered nothing any more");
    }
}

fn load<'a>(contender: &Contender, questions: &'a Questions, round: u32) -> Load<'a> {
    Load { socket: contender.socket(), questions, is_dns: contender.is_dns(), first: u64::from(round) << 24 }
}

fn resident(case: &'static str, contenders: &[Contender], results: &mut Results) {
    for contender in contenders {
        if let Some(kib) = contender.resident_kib() {
            results.add_number(case, contender.name, kib);
        }
    }
}

fn polite(table: &Table, contenders: &[Contender], results: &mut Results) {
    let directory = TempDir::new().expect("a temporary directory");
    let lines = table.questions();
    for round in 1..=POLITE_ROUNDS {
        for contender in contenders.iter().filter(|contender| contender.is_dns()) {
            match polite::qps(contender, directory.path(), &lines) {
                Ok(qps) => results.add_number("polite_qps", contender.name, qps),
                Err(error) => {
                    eprintln!("  dnsperf with {}: {error}; its line is left out", contender.name);
                }
            }
        }
        eprintln!("  dnsperf: {round} of {POLITE_ROUNDS}");
    }
}
