//! One document that is wanted of a guest, and its number.

use tether_wire::status::Stamp;
use tokio::sync::oneshot;

/// The answer to somebody who waits.
type Answer<T, E> = oneshot::Sender<Result<T, E>>;

/// A document, wanted of a guest.
#[derive(Debug)]
pub(crate) struct Wanted<D, T, E> {
    /// The document and its stamp; the generation is the host's own count.
    pub(crate) document: Option<(Stamp, D)>,
    /// The highest number used or heard of.
    pub(crate) highest: u64,
    /// Who waits for it to be in force.
    pub(crate) waiting: Option<Answer<T, E>>,
}

impl<D, T, E> Default for Wanted<D, T, E> {
    fn default() -> Self {
        Self { document: None, highest: 0, waiting: None }
    }
}

impl<D: Clone, T, E> Wanted<D, T, E> {
    /// Wants another document. Whoever waited for the one before learns that it is superseded
    /// by the closing of their channel.
    pub(crate) fn set(
        &mut self,
        stamp_of: impl Fn(u64) -> Stamp,
        document: D,
    ) -> oneshot::Receiver<Result<T, E>> {
        self.highest += 1;
        self.document = Some((stamp_of(self.highest), document));
        let (answer, receiver) = oneshot::channel();
        self.waiting = Some(answer);
        receiver
    }

    /// The same document for another guest, of which nothing is known: its numbers begin anew.
    pub(crate) fn anew(self) -> Self {
        let document = self.document.map(|(stamp, document)| (Stamp { generation: 1, ..stamp }, document));
        Self { highest: document.is_some().into(), document, waiting: self.waiting }
    }

    /// Compares with what the guest says it `has` in force. The document to send, if that is not
    /// the wanted one and will not become it.
    ///
    /// The same content under another number (this host's memory is younger than the guest's)
    /// is under the guest's number from now on. Other content under a number that is not lower
    /// makes ours stale: it gets a number above both. A lower number means that ours is on its
    /// way, or was refused.
    pub(crate) fn compare(&mut self, has: Stamp) -> Option<(u64, D)> {
        self.highest = self.highest.max(has.generation);
        let (stamp, document) = self.document.as_mut()?;
        if has.digest == stamp.digest {
            if self.waiting.is_none() {
                stamp.generation = has.generation;
                return None;
            }
            // Somebody waits for the guest's word about this very number: it may be on its way,
            // unless the guest's is higher. Then it is asked for again, under that one.
            if has.generation <= stamp.generation {
                return None;
            }
            stamp.generation = has.generation;
            return Some((stamp.generation, document.clone()));
        }
        if has.generation < stamp.generation {
            return None;
        }
        self.highest += 1;
        stamp.generation = self.highest;
        Some((stamp.generation, document.clone()))
    }

    /// What a guest that has just connected with `has` in force is to be sent, if anything.
    pub(crate) fn resync(&mut self, has: Option<Stamp>) -> Option<(u64, D)> {
        if let Some(has) = has
            && let Some(renumbered) = self.compare(has)
        {
            return Some(renumbered);
        }
        let (stamp, document) = self.document.as_ref()?;
        // In force already: sent again only for somebody who waits for the guest's word.
        let in_force = has.is_some_and(|has| has.digest == stamp.digest);
        (!in_force || self.waiting.is_some()).then(|| (stamp.generation, document.clone()))
    }

    /// Where somebody waits for the guest's word about what it `has` already: from now on they wait
    /// for it under a number that nobody has used.
    pub(crate) fn renumber(&mut self, has: Stamp) {
        if let Some((stamp, _)) = &mut self.document
            && self.waiting.is_some()
            && stamp.digest == has.digest
        {
            self.highest = self.highest.max(has.generation) + 1;
            stamp.generation = self.highest;
        }
    }

    /// The guest's answer about the document with this stamp: who waits for it hears it.
    pub(crate) fn answered(&mut self, is_it: impl Fn(Stamp) -> bool, answer: Result<T, E>) {
        let wanted = self.document.as_ref().is_some_and(|(stamp, _)| is_it(*stamp));
        if wanted && let Some(waiting) = self.waiting.take() {
            // Whoever asked may have stopped waiting.
            let _ = waiting.send(answer);
        }
    }
}
