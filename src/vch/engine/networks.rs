//! Networks: made, found, removed; their bridges follow.

use std::{collections::BTreeMap, net::IpAddr};

use tether_wire::value::{IfName, Prefix};

use super::{
    Engine, State,
    error::EngineError,
    new_id, now,
    record::{Network, NetworkKind},
};
use crate::{
    ipam::{IpamError, Pools, Subnet, overlaps},
    mac,
    store::Change,
};

/// The network containers are on when nobody says otherwise.
pub const DEFAULT_NETWORK: &str = "bridge";
/// The network that is none.
pub const NO_NETWORK: &str = "none";
/// Who holds the host's own address on an external network.
pub(super) const HOST: &str = "vch";
/// The one driver option there is.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";
/// The longest name, in bytes: `container.network` has to fit in a domain name.
const LONGEST_NAME: usize = 63;

/// A subnet as somebody asks for it.
#[derive(Clone, Debug, Default)]
pub struct WantedSubnet {
    /// `172.20.0.0/16`.
    pub subnet: Option<String>,
    /// The addresses containers get when they ask for none.
    pub ip_range: Option<String>,
    /// The host's address.
    pub gateway: Option<String>,
}

/// A bridge network as somebody asks for it.
#[derive(Clone, Debug, Default)]
pub struct WantedNetwork {
    /// Its name.
    pub name: String,
    /// Whether nothing of it leaves the host.
    pub internal: bool,
    /// Whether it has IPv6, also where no subnet says so.
    pub ipv6: bool,
    /// Its subnets, one of each family at most.
    pub subnets: Vec<WantedSubnet>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// An external network as an administrator hands it over: the same names on the command line
/// and in the configuration file.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct WantedExternal {
    /// Its name.
    pub name: String,
    /// Its subnet, `208.91.3.0/24`.
    pub subnet: String,
    /// Its router.
    pub gateway: String,
    /// The host's link that leads to it.
    pub link: String,
    /// The host's own address on it: published ports answer there.
    #[serde(default)]
    pub address: Option<String>,
    /// The part of the subnet that containers get addresses of.
    #[serde(default)]
    pub ip_range: Option<String>,
    /// The MTU of everything on it.
    #[serde(default)]
    pub mtu: Option<u32>,
}

impl WantedExternal {
    /// Whether this is that network, just as it is.
    pub(super) fn is(&self, network: &Network) -> bool {
        let NetworkKind::External { link, address, .. } = &network.kind else { return false };
        let ip = |text: &str| text.split('/').next().and_then(|text| text.parse::<IpAddr>().ok());
        let own = address.map(Prefix::address);
        let wanted = self.address.as_deref().and_then(ip);
        let pool = network.subnets.first();
        network.name == self.name
            && link.as_str() == self.link
            && own == wanted
            && network.mtu == self.mtu
            && pool.is_some_and(|pool| {
                self.subnet.parse() == Ok(pool.subnet())
                    && self.gateway.parse() == Ok(pool.gateway())
                    && self.ip_range.as_deref().map(str::parse).transpose() == Ok(pool.ip_range())
            })
    }
}

impl Engine {
    /// Makes a bridge network.
    pub async fn create_network(&self, wanted: WantedNetwork) -> Result<Network, EngineError> {
        check_name(&wanted.name)?;
        let mtu = mtu(&wanted.options)?;
        let in_use = self.shared.kernel.addresses_and_routes().await?;
        let network = {
            let mut state = self.state();
            state.refuse_twin(&wanted.name)?;
            let subnets = bridge_subnets(&wanted, &state.prefixes(&self.shared.settings), &in_use)?;
            let id = new_id();
            let network = Network {
                name: wanted.name,
                created: now(),
                kind: NetworkKind::Bridge { internal: wanted.internal },
                bridge: Some(bridge_name(&id)?),
                ipv6: subnets.iter().any(|subnet| subnet.gateway().is_ipv6()),
                subnets,
                mtu,
                labels: wanted.labels,
                options: wanted.options,
                id,
            };
            self.add_network(&mut state, network)?
        };
        self.realise(network).await
    }

    /// Takes an external network over from an administrator.
    pub async fn add_external(
        &self,
        wanted: WantedExternal,
        configured: bool,
    ) -> Result<Network, EngineError> {
        check_name(&wanted.name)?;
        let invalid = |error: &dyn std::fmt::Display| EngineError::invalid(error);
        let link: IfName = wanted.link.parse().map_err(|error| invalid(&error).at("link"))?;
        let subnet = prefix(&wanted.subnet)?;
        let gateway = address(&wanted.gateway)?;
        let range = wanted.ip_range.as_deref().map(prefix).transpose()?;
        let mut pool = Subnet::new(subnet, range, Some(gateway)).map_err(|error| invalid(&error))?;
        let own = wanted.address.as_deref().map(|text| own_address(text, subnet)).transpose()?;
        if let Some(own) = own {
            pool.reserve(HOST, Some(own.address())).map_err(|error| invalid(&error).at("address"))?;
        }
        let network = {
            let mut state = self.state();
            state.refuse_twin(&wanted.name)?;
            refuse_overlap(subnet, &state.prefixes(&self.shared.settings))?;
            let twin = state.networks.values().find(
                |network| matches!(&network.kind, NetworkKind::External { link: other, .. } if *other == link),
            );
            if let Some(twin) = twin {
                return Err(EngineError::conflict(format!("link {link} is {}'s already", twin.name)));
            }
            let id = new_id();
            let network = Network {
                name: wanted.name,
                created: now(),
                kind: NetworkKind::External { link, address: own, configured },
                bridge: Some(bridge_name(&id)?),
                ipv6: gateway.is_ipv6(),
                subnets: vec![pool],
                mtu: wanted.mtu,
                labels: BTreeMap::new(),
                options: BTreeMap::new(),
                id,
            };
            self.add_network(&mut state, network)?
        };
        self.realise(network).await
    }

    /// Makes the networks that are always there, once.
    pub(super) async fn ensure_built_in(&self) -> Result<(), EngineError> {
        let exists = |name: &str| self.state().networks.values().any(|network| network.name == name);
        if !exists(NO_NETWORK) {
            let network = Network { id: new_id(), created: now(), ..Network::none(NO_NETWORK) };
            self.add_network(&mut self.state(), network)?;
        }
        if !exists(DEFAULT_NETWORK) {
            let wanted = WantedNetwork { name: DEFAULT_NETWORK.to_owned(), ..WantedNetwork::default() };
            self.create_network(wanted).await?;
        }
        Ok(())
    }

    /// Removes a network that nobody is on.
    pub async fn remove_network(&self, text: &str, by_administrator: bool) -> Result<(), EngineError> {
        let network = {
            let mut state = self.state();
            let network = state.network(text)?.clone();
            if network.name == DEFAULT_NETWORK || network.name == NO_NETWORK {
                return Err(EngineError::forbidden(format!(
                    "{} is a pre-defined network and cannot be removed",
                    network.name
                )));
            }
            if network.is_external() != by_administrator {
                let (what, remedy) = if by_administrator {
                    ("no external network", format!("docker network rm {}", network.name))
                } else {
                    ("an external network, the administrator's", format!("vch network rm {}", network.name))
                };
                return Err(EngineError::forbidden(format!("{} is {what}: use {remedy}", network.name)));
            }
            let holders = state.on_network(&network.id).filter(|container| {
                container.endpoint(&network.id).is_some_and(|endpoint| endpoint.active.is_some())
            });
            let holders: Vec<_> = holders
                .map(|container| format!("name:{:?} id:{:?}", container.name, container.short_id()))
                .collect();
            if !holders.is_empty() {
                return Err(EngineError::forbidden(format!(
                    "error while removing network: network {} has active endpoints ({})",
                    network.name,
                    holders.join(", ")
                )));
            }
            self.shared.store.commit(&Change::default().without_network(&network.id))?;
            state.networks.remove(&network.id);
            network
        };
        self.dismantle(&network).await;
        self.filter().await
    }

    /// Removes every bridge network that nobody has an endpoint on. Their names.
    pub async fn prune_networks(&self) -> Vec<String> {
        let unused: Vec<String> = {
            let state = self.state();
            let bridges = state.networks.values().filter(|network| {
                matches!(network.kind, NetworkKind::Bridge { .. }) && network.name != DEFAULT_NETWORK
            });
            bridges
                .filter(|network| state.on_network(&network.id).next().is_none())
                .map(|network| network.name.clone())
                .collect()
        };
        let mut removed = Vec::new();
        for name in unused {
            // Somebody may have been faster, either way.
            if self.remove_network(&name, false).await.is_ok() {
                removed.push(name);
            }
        }
        removed
    }

    fn add_network(&self, state: &mut State, network: Network) -> Result<Network, EngineError> {
        self.shared.store.commit(&Change::default().network(&network))?;
        state.networks.insert(network.id.clone(), network.clone());
        Ok(network)
    }

    /// Makes the bridge of a new network, or takes the network back.
    async fn realise(&self, network: Network) -> Result<Network, EngineError> {
        let made = match self.bridge_up(&network).await {
            Ok(()) => self.filter().await,
            Err(error) => Err(error),
        };
        if let Err(error) = made {
            {
                let mut state = self.state();
                self.shared.store.commit(&Change::default().without_network(&network.id))?;
                state.networks.remove(&network.id);
            }
            self.dismantle(&network).await;
            return Err(error);
        }
        Ok(network)
    }

    /// Makes a network's bridge as it should be, whatever is there.
    pub(super) async fn bridge_up(&self, network: &Network) -> Result<(), EngineError> {
        let Some(bridge) = &network.bridge else { return Ok(()) };
        let addresses: Vec<Prefix> = match &network.kind {
            NetworkKind::External { address, .. } => address.iter().copied().collect(),
            _ => network
                .subnets
                .iter()
                .filter_map(|pool| Prefix::new(pool.gateway(), pool.subnet().length()))
                .collect(),
        };
        let kernel = &self.shared.kernel;
        let (id, mac, mtu) = (&network.id, mac::of_name(&network.id), network.mtu);
        if let NetworkKind::External { link, .. } = &network.kind {
            // First: a link that cannot be had should leave the host as it was. Connections may be
            // using the addresses of an earlier run.
            kernel.make_bridge(bridge, id, mac, mtu).await?;
            kernel.enslave_uplink(link, bridge).await?;
        }
        // Also the MTU again: the link's may have become the bridge's.
        kernel.ensure_bridge(bridge, id, mac, mtu, &addresses).await?;
        Ok(())
    }

    /// Takes down what a network had in the kernel.
    pub(super) async fn dismantle(&self, network: &Network) {
        let Some(bridge) = &network.bridge else { return };
        if let NetworkKind::External { link, .. } = &network.kind
            && let Err(error) = self.shared.kernel.release_uplink(link).await
        {
            tracing::error!("network {}: {error}", network.name);
        }
        if let Err(error) = self.shared.kernel.remove_bridge(bridge).await {
            tracing::error!("network {}: {error}", network.name);
        }
    }
}

impl State {
    fn refuse_twin(&self, name: &str) -> Result<(), EngineError> {
        // Names are looked up without regard to case.
        let twin = self.networks.values().any(|network| network.name.eq_ignore_ascii_case(name));
        if twin || name == "host" {
            return Err(EngineError::conflict(format!("network with name {name} already exists")));
        }
        Ok(())
    }

    /// Every network's subnets, and the management network.
    fn prefixes(&self, settings: &super::Settings) -> Vec<Prefix> {
        let subnets = self.networks.values().flat_map(|network| &network.subnets).map(Subnet::subnet);
        subnets.chain([settings.management_address.network()]).collect()
    }
}

fn bridge_subnets(
    wanted: &WantedNetwork,
    others: &[Prefix],
    in_use: &[Prefix],
) -> Result<Vec<Subnet>, EngineError> {
    let taken: Vec<Prefix> = others.iter().chain(in_use).copied().collect();
    let pool_error = |error: IpamError| match error {
        IpamError::Overlaps => EngineError::forbidden(error),
        IpamError::NoPool => EngineError::internal(error),
        other => EngineError::invalid(other),
    };
    let mut subnets: Vec<Subnet> = Vec::new();
    for one in &wanted.subnets {
        let subnet = match one.subnet.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => {
                let subnet = prefix(text)?;
                refuse_overlap(subnet, others)?;
                subnet
            }
            None if one.gateway.is_some() || one.ip_range.is_some() => {
                return Err(EngineError::invalid(
                    "an --ip-range or --gateway needs the --subnet that it is part of",
                ));
            }
            None => continue,
        };
        let range = one.ip_range.as_deref().filter(|text| !text.is_empty()).map(prefix).transpose()?;
        let gateway = one.gateway.as_deref().filter(|text| !text.is_empty()).map(address).transpose()?;
        let subnet = Subnet::new(subnet, range, gateway).map_err(pool_error)?;
        if subnets.iter().any(|other| other.gateway().is_ipv4() == subnet.gateway().is_ipv4()) {
            return Err(EngineError::invalid(format!(
                "{} is a second subnet of its family: a network has one of each at most",
                subnet.subnet()
            )));
        }
        subnets.push(subnet);
    }
    let has = |subnets: &[Subnet], v4: bool| subnets.iter().any(|pool| pool.gateway().is_ipv4() == v4);
    if !has(&subnets, true) {
        let subnet = Pools::next(&taken).map_err(pool_error)?;
        subnets.insert(0, Subnet::new(subnet, None, None).map_err(pool_error)?);
    }
    if wanted.ipv6 && !has(&subnets, false) {
        let subnet = Pools::next_v6(&taken).map_err(pool_error)?;
        subnets.push(Subnet::new(subnet, None, None).map_err(pool_error)?);
    }
    Ok(subnets)
}

fn refuse_overlap(subnet: Prefix, others: &[Prefix]) -> Result<(), EngineError> {
    if others.iter().any(|other| overlaps(subnet, *other)) {
        Err(EngineError::forbidden(IpamError::Overlaps))
    } else {
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), EngineError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !starts || !name.bytes().all(good) || name.len() > LONGEST_NAME {
        return Err(EngineError::invalid(format!(
            "invalid network name {name:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, {LONGEST_NAME} at most"
        )));
    }
    Ok(())
}

fn mtu(options: &BTreeMap<String, String>) -> Result<Option<u32>, EngineError> {
    if let Some(unknown) = options.keys().find(|key| *key != MTU_OPTION) {
        return Err(EngineError::invalid(format!(
            "driver option {unknown:?} is not supported; the one there is: {MTU_OPTION}"
        )));
    }
    let number = |text: &String| {
        let mtu = text.parse().ok().filter(|mtu| (1_280..=65_535).contains(mtu));
        mtu.ok_or_else(|| EngineError::invalid(format!("{MTU_OPTION}={text}: write 1280 to 65535")))
    };
    options.get(MTU_OPTION).map(number).transpose()
}

fn prefix(text: &str) -> Result<Prefix, EngineError> {
    text.parse().map_err(|error| EngineError::invalid(format!("invalid subnet: {error}")))
}

fn address(text: &str) -> Result<IpAddr, EngineError> {
    text.parse().map_err(|_| EngineError::invalid(format!("invalid address {text:?}: write 172.18.0.1, say")))
}

/// The host's address on an external network, with or without the subnet's length.
fn own_address(text: &str, subnet: Prefix) -> Result<Prefix, EngineError> {
    let bare = text.strip_suffix(&format!("/{}", subnet.length())).unwrap_or(text);
    let own = address(bare)?;
    Prefix::new(own, subnet.length())
        .filter(|_| subnet.contains(own))
        .ok_or_else(|| EngineError::invalid(format!("address {text}: not in {subnet}")))
}

/// A network's bridge, named as Docker names them.
fn bridge_name(id: &str) -> Result<IfName, EngineError> {
    format!("br-{}", id.get(..12).unwrap_or(id)).parse().map_err(EngineError::internal)
}
