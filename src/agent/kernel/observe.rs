//! Reading the kernel's networking into the planner's terms.

use netlink_packet_route::{
    address::AddressMessage, neighbour::NeighbourMessage, route::RouteMessage, rule::RuleMessage,
};
use nix::libc::{RTM_GETADDR, RTM_GETLINK, RTM_GETNEIGH, RTM_GETROUTE, RTM_GETRULE};

use super::{Kernel, KernelError, address, link, neighbour, route, rule};
use crate::plan::KernelState;

impl Kernel {
    /// Reads everything tether looks at; where devices are is [`Self::locate`]'s to find out.
    ///
    /// Each table is consistent in itself. Between two of them something may change, which
    /// [`Self::changed`] then tells.
    pub async fn observe(&self) -> Result<KernelState, KernelError> {
        let mut requests = self.requests.lock().await;
        // Links last: one that goes down meanwhile takes neighbours, routes and addresses along, and it is
        // the link that is to be told of then. No family is all of them.
        let neighbours = requests.dump(RTM_GETNEIGH, &NeighbourMessage::default(), neighbour::read).await?;
        let rules = requests.dump(RTM_GETRULE, &RuleMessage::default(), rule::read).await?;
        let routes = requests.dump(RTM_GETROUTE, &RouteMessage::default(), route::read).await?;
        let addresses = requests.dump(RTM_GETADDR, &AddressMessage::default(), address::read).await?;
        let mut links = requests.dump(RTM_GETLINK, &link::all(), link::read).await?;
        links.sort_by_key(|link| link.index);
        let mut state = KernelState {
            links,
            addresses,
            routes,
            rules,
            neighbours,
            renames_live: self.renames_live,
            ..KernelState::default()
        };
        name_labels(&mut state);
        Ok(state)
    }
}

/// An address that nobody gave a label has the link's name as one.
fn name_labels(state: &mut KernelState) {
    let KernelState { links, addresses, .. } = state;
    for address in addresses.iter_mut().filter(|address| address.label.is_some()) {
        let link = links.binary_search_by_key(&address.link, |link| link.index).ok().map(|at| &links[at]);
        if link.is_some_and(|link| address.label.as_ref() == Some(&link.name)) {
            address.label = None;
        }
    }
}
