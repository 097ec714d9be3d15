//! A container in a line, as `docker ps` shows it.

use std::collections::HashMap;

use bollard_stubs::models;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::inspect::endpoint_settings;
use crate::{
    engine::record::{Container, Network, Phase, Published},
    reserved::Protocol,
};

/// A container in a list.
pub fn model(container: &Container, networks: &[Network]) -> models::ContainerSummary {
    let created = parse(&container.created).map_or(0, OffsetDateTime::unix_timestamp);
    let attached = container.endpoints.iter().filter_map(|endpoint| {
        let network = networks.iter().find(|network| network.id == endpoint.network)?;
        Some((network.name.clone(), endpoint_settings(container, endpoint, network)))
    });
    models::ContainerSummary {
        id: Some(container.id.clone()),
        names: Some(vec![format!("/{}", container.name)]),
        image: container.config.image.clone(),
        image_id: Some(container.image.to_string()),
        command: Some(container.argv.join(" ")),
        created: Some(created),
        ports: Some(ports(container)),
        labels: Some(container.config.labels.clone().unwrap_or_default()),
        state: Some(match container.state.phase {
            Phase::Created | Phase::Starting => models::ContainerSummaryStateEnum::CREATED,
            Phase::Running => models::ContainerSummaryStateEnum::RUNNING,
            Phase::Exited => models::ContainerSummaryStateEnum::EXITED,
        }),
        status: Some(status(container)),
        host_config: Some(models::ContainerSummaryHostConfig {
            network_mode: container.host_config.network_mode.clone(),
            annotations: None,
        }),
        network_settings: Some(models::ContainerSummaryNetworkSettings {
            networks: Some(attached.collect::<HashMap<_, _>>()),
        }),
        mounts: Some(Vec::new()),
        ..models::ContainerSummary::default()
    }
}

/// Docker's word for where in its life a container is.
pub fn status_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Created | Phase::Starting => "created",
        Phase::Running => "running",
        Phase::Exited => "exited",
    }
}

fn status(container: &Container) -> String {
    let since = |time: &Option<String>| {
        let time = time.as_deref().and_then(parse)?;
        Some(duration((OffsetDateTime::now_utc() - time).whole_seconds()))
    };
    let state = &container.state;
    match state.phase {
        Phase::Created => "Created".to_owned(),
        Phase::Starting => "Created (starting)".to_owned(),
        Phase::Running => format!("Up {}", since(&state.started).unwrap_or_default()),
        Phase::Exited => {
            format!("Exited ({}) {} ago", state.exit_code, since(&state.finished).unwrap_or_default())
        }
    }
}

fn parse(time: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(time, &Rfc3339).ok()
}

/// A length of time as Docker's client writes it.
fn duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    // As Docker rounds: 90 minutes are two hours.
    let hours = (minutes + 30) / 60;
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ => match (minutes, hours) {
            (1, _) => "About a minute".to_owned(),
            (2..60, _) => format!("{minutes} minutes"),
            (_, 1) => "About an hour".to_owned(),
            (_, 2..48) => format!("{hours} hours"),
            (_, 48..336) => format!("{} days", hours / 24),
            (_, 336..1_440) => format!("{} weeks", hours / 24 / 7),
            (_, 1_440..17_520) => format!("{} months", hours / 24 / 30),
            _ => format!("{} years", hours / 24 / 365),
        },
    }
}

/// A container's ports: published ones with their place, others that are exposed.
fn ports(container: &Container) -> Vec<models::Port> {
    let published = container.run.iter().flat_map(|run| &run.published);
    let mut ports: Vec<models::Port> = published
        .clone()
        .map(|port: &Published| models::Port {
            ip: Some(port.at.ip().to_string()),
            private_port: port.port,
            public_port: Some(port.at.port()),
            typ: Some(kind(port.protocol)),
        })
        .collect();
    if container.state.phase.is_up() {
        for text in container.config.exposed_ports.iter().flatten() {
            let Ok((port, protocol)) = crate::engine::publish::exposed(text) else { continue };
            if !published.clone().any(|other| (other.port, other.protocol) == (port, protocol)) {
                let typ = Some(kind(protocol));
                ports.push(models::Port { ip: None, private_port: port, public_port: None, typ });
            }
        }
    }
    ports
}

fn kind(protocol: Protocol) -> models::PortTypeEnum {
    match protocol {
        Protocol::Tcp => models::PortTypeEnum::TCP,
        Protocol::Udp => models::PortTypeEnum::UDP,
        Protocol::Sctp => models::PortTypeEnum::SCTP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_dockers() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3_600, "About an hour"),
            (7_200, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 21, "3 weeks"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }
}
