//! The polite load: dnsperf, which waits for answers as programs do and cannot saturate a server.

use std::{fs, path::Path};

use crate::{contender::Contender, cores};

/// dnsperf's own measure of time is the second.
const SECONDS: &str = "1";

/// Questions a second, by `lines` of names and types, or what dnsperf said instead.
pub(crate) fn qps(contender: &Contender, directory: &Path, lines: &str) -> Result<f64, String> {
    let file = directory.join("questions");
    fs::write(&file, lines).expect("a file");
    let (server, client) = (contender.server, contender.client.to_string());
    let mut command = contender.space.command("taskset");
    command.args(["--cpu-list", &cores::LOAD.to_string(), "dnsperf"]);
    command.args(["-s", &server.ip().to_string(), "-p", &server.port().to_string(), "-a", &client]);
    command.args(["-l", SECONDS, "-d"]).arg(&file);
    let output = command.output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find_map(|line| line.trim().strip_prefix("Queries per second:"));
    line.and_then(|qps| qps.trim().parse().ok())
        .ok_or_else(|| format!("dnsperf says {}", String::from_utf8_lossy(&output.stderr).trim()))
}
