//! Medians, as a table and as lines.

use crate::load::Measure;

/// What was measured, in the order in which it was.
#[derive(Default)]
pub(crate) struct Results {
    measures: Vec<Row<Measure>>,
    numbers: Vec<Row<f64>>,
}

struct Row<T> {
    case: &'static str,
    contender: &'static str,
    values: Vec<T>,
}

/// Who is compared with the others.
pub(crate) const OURS: &str = "tether";
/// Who is as fast as can be.
const LIMIT: &str = "echo_mmsg";
/// What is less of a processor than the limit needs, in percent.
const BUSY: f64 = 85.0;
/// The case of one question at a time.
pub(crate) const ONE: &str = "one";
const COLUMNS: [&str; 8] = ["", "q/s", "p50 us", "p99 us", "CPU %", "CPU us", "lost", "wrong"];

impl Results {
    pub(crate) fn add(&mut self, case: &'static str, contender: &'static str, measure: Measure) {
        add(&mut self.measures, case, contender, measure);
    }

    /// Something else; the case's name has the unit behind its first `_`.
    pub(crate) fn add_number(&mut self, case: &'static str, contender: &'static str, number: f64) {
        add(&mut self.numbers, case, contender, number);
    }

    /// Takes out, and names, who had most turns at a case without an answer. One such turn may be
    /// the machine's fault.
    pub(crate) fn forget_silent(&mut self, case: &str) -> Vec<&'static str> {
        let is_silent = |row: &mut Row<Measure>| row.case == case && row.median(|measure| measure.qps) == 0.0;
        self.measures.extract_if(.., is_silent).map(|row| row.contender).collect()
    }

    pub(crate) fn print(&self) {
        self.print_table();
        self.print_ratios();
        for row in &self.measures {
            let (case, contender) = (row.case, row.contender);
            if case == ONE {
                println!("dns.{case}.{contender}_us={:.1}", row.median(|measure| measure.p50_us));
            } else {
                println!("dns.{case}.{contender}_qps={:.0}", row.median(|measure| measure.qps));
            }
        }
        for row in &self.numbers {
            let (case, unit) = row.case.split_once('_').expect("a unit");
            println!("dns.{case}.{}_{unit}={:.0}", row.contender, row.median(|number| *number));
        }
    }

    fn print_table(&self) {
        let mut case = "";
        for row in &self.measures {
            if row.case != case {
                case = row.case;
                let [_, columns @ ..] = COLUMNS;
                let heads: String = columns.map(|column| format!("{column:>10}")).concat();
                println!("\n{case:<18}{heads}");
            }
            let values: [fn(&Measure) -> f64; 5] =
                [|m| m.qps, |m| m.p50_us, |m| m.p99_us, |m| m.cpu_percent, |m| m.cpu_us];
            let [qps, p50, p99, percent, each] = values.map(|value| row.median(value));
            let (lost, wrong) =
                row.values.iter().fold((0, 0), |(lost, wrong), m| (lost + m.lost, wrong + m.wrong));
            let name = row.contender;
            println!(
                "{name:<18}{qps:>10.0}{p50:>10.1}{p99:>10.1}{percent:>10.0}{each:>10.2}{lost:>10}{wrong:>10}"
            );
        }
        println!();
        self.print_doubts();
        for row in &self.numbers {
            println!("{:<22}{:<18}{:>10.0}", row.case, row.contender, row.median(|number| *number));
        }
        println!();
    }

    /// A server under hard load has all of its processor, unless somebody else is there.
    fn print_doubts(&self) {
        let echoes = self.measures.iter().filter(|row| row.contender == LIMIT && row.case != ONE);
        let shares: Vec<f64> = echoes.map(|row| row.median(|measure| measure.cpu_percent)).collect();
        let least = shares.into_iter().fold(100.0, f64::min);
        if least < BUSY {
            println!("The machine was busy with something else: the fastest echo had {least:.0} % of its");
            println!("processor at worst. Compare CPU us, time for each answer, rather than q/s.");
            println!();
        }
    }

    /// Tether beside each of the others, case by case; more than 1 is better, but for `one`.
    fn print_ratios(&self) {
        for row in self.measures.iter().filter(|row| row.contender != OURS) {
            let Some(ours) = self.of(row.case, OURS) else { continue };
            let value: fn(&Measure) -> f64 =
                if row.case == ONE { |measure| measure.p50_us } else { |measure| measure.qps };
            println!("dns.{}.vs_{}={:.2}", row.case, row.contender, ours.median(value) / row.median(value));
        }
    }

    fn of(&self, case: &str, contender: &str) -> Option<&Row<Measure>> {
        self.measures.iter().find(|row| row.case == case && row.contender == contender)
    }
}

impl<T> Row<T> {
    fn median(&self, value: impl Fn(&T) -> f64) -> f64 {
        let mut values: Vec<f64> = self.values.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }
}

fn add<T>(rows: &mut Vec<Row<T>>, case: &'static str, contender: &'static str, value: T) {
    match rows.iter_mut().find(|row| row.case == case && row.contender == contender) {
        Some(row) => row.values.push(value),
        None => rows.push(Row { case, contender, values: vec![value] }),
    }
}
