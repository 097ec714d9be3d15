//! `docker logs`.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::{Response, header};
use tether_wire::streams::Stream;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::{sleep, timeout};

use super::{Answer, attach::framed, body::stream, query::Query, value};
use crate::{
    engine::{Engine, error::EngineError},
    workload::log::Record,
};

/// How long a client may take to read on.
const READER: Duration = Duration::from_mins(1);

/// What of a log is wanted, and how.
#[expect(clippy::struct_excessive_bools, reason = "they are the request's own, and independent")]
struct Wants {
    stdout: bool,
    stderr: bool,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
    timestamps: bool,
    terminal: bool,
    /// Whether the next piece of each stream begins a line.
    line_begins: [bool; 2],
}

/// Answers with what is in the log, and goes on with what comes if that is wanted.
pub async fn logs(engine: &Engine, id: &str, query: &Query) -> Answer {
    let (container, hub) = engine.streams(id)?;
    let mut wants = Wants {
        stdout: query.is("stdout"),
        stderr: query.is("stderr"),
        since: moment(query, "since")?,
        until: moment(query, "until")?,
        timestamps: query.is("timestamps"),
        terminal: container.config.tty.unwrap_or_default(),
        line_begins: [true; 2],
    };
    if !wants.stdout && !wants.stderr {
        return Err(EngineError::invalid("Bad parameters: you must choose at least one stream"));
    }
    query.refuse("details", "docker logs --details")?;
    let follow = query.is("follow") && container.state.phase.is_up();
    let tail = match query.get("tail") {
        None | Some("all") => None,
        // As Docker's: what is no number is everything.
        Some(text) => text.parse::<usize>().ok(),
    };
    // Attached before the log is read: what comes in between is there twice, and told by its
    // position.
    let coming = follow.then(|| hub.attach());
    let kept = engine.output(&container.id).await?;
    let known = kept.last().map(Record::position);
    let kind = if wants.terminal {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    };
    let (sender, body) = stream();
    tokio::spawn(async move {
        let kept: Vec<Record> = kept.into_iter().filter(|record| wants.wants(record)).collect();
        let from = tail.map_or(0, |lines| begin_of_last(&kept, lines));
        for record in &kept[from..] {
            // Who does not read keeps none of it in memory for ever.
            let sent = timeout(READER, sender.send(wants.show(record))).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
        drop(kept);
        let Some(mut coming) = coming else { return };
        let left = wants.until.map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
        let until = sleep(left.unwrap_or_default());
        tokio::pin!(until);
        loop {
            let record = tokio::select! {
                record = coming.recv() => record,
                () = &mut until, if wants.until.is_some() => return,
                // Nobody reads any more.
                () = sender.closed() => return,
            };
            let Some(record) = record else { return };
            let new = known.is_none_or(|known| record.position() > known);
            if new && wants.wants(&record) && sender.send(wants.show(&record)).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, value(kind));
    Ok(response)
}

impl Wants {
    fn wants(&self, record: &Record) -> bool {
        let stream = match record.stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        stream
            && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time <= until)
    }

    fn show(&mut self, record: &Record) -> Bytes {
        let begins = &mut self.line_begins[usize::from(record.stream == Stream::Stderr)];
        let mut bytes = Vec::with_capacity(record.bytes.len() + 32);
        if self.timestamps && *begins {
            bytes.extend(timestamp(record.time).bytes());
            bytes.push(b' ');
        }
        *begins = record.bytes.ends_with(b"\n");
        bytes.extend(&record.bytes);
        if self.terminal { bytes.into() } else { framed(record.stream, &bytes) }
    }
}

/// Where the last `lines` lines begin.
fn begin_of_last(records: &[Record], lines: usize) -> usize {
    let mut found = 0;
    for (at, record) in records.iter().enumerate().rev() {
        let ends_line = record.bytes.ends_with(b"\n") || at + 1 == records.len();
        if ends_line {
            if found == lines {
                return at + 1;
            }
            found += 1;
        }
    }
    0
}

/// Docker's timestamps: nine digits after the point, always.
fn timestamp(time: SystemTime) -> String {
    let utc = OffsetDateTime::from(time);
    let whole = utc.replace_nanosecond(0).unwrap_or(utc).format(&Rfc3339).unwrap_or_default();
    format!("{}.{:09}Z", whole.trim_end_matches('Z'), utc.nanosecond())
}

/// A time as Docker's clients send it: seconds since 1970 with up to nine decimals, or RFC 3339.
fn moment(query: &Query, name: &str) -> Result<Option<SystemTime>, EngineError> {
    let Some(text) = query.get(name).filter(|text| *text != "0") else { return Ok(None) };
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(Some(time.into()));
    }
    let (seconds, decimals) = text.split_once('.').unwrap_or((text, ""));
    let parsed =
        seconds.parse().ok().zip(format!("{decimals:0<9}").get(..9).and_then(|nanos| nanos.parse().ok()));
    match parsed
        .and_then(|(seconds, nanos)| SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)))
    {
        Some(time) => Ok(Some(time)),
        None => Err(EngineError::invalid(format!("invalid value {text:?} for {name:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Record {
        Record { offset: 0, time: SystemTime::UNIX_EPOCH, stream: Stream::Stdout, bytes: text.into() }
    }

    #[test]
    fn the_last_lines_are_found() {
        let records = [record("a\n"), record("b"), record("b\n"), record("c")];
        for (lines, from) in [(0, 4), (1, 3), (2, 1), (3, 0), (9, 0)] {
            assert_eq!(begin_of_last(&records, lines), from, "{lines}");
        }
        assert_eq!(begin_of_last(&[], 3), 0);
    }

    #[test]
    fn times_are_read_and_written() {
        let query = Query::parse("a=1.5&b=1970-01-01T00:00:02Z&c=x&d=0");
        let at = |ms| Some(SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        assert_eq!(moment(&query, "a").unwrap(), at(1_500));
        assert_eq!(moment(&query, "b").unwrap(), at(2_000));
        assert!(moment(&query, "c").is_err());
        assert_eq!(moment(&query, "d").unwrap(), None);
        assert_eq!(
            timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500)),
            "1970-01-01T00:00:01.500000000Z"
        );
    }
}
