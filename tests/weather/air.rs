//! The weather between two places: every Ethernet frame from one to the other is carried by this
//! program, or lost, doubled, held back.
//!
//! Each place has a TAP device; what its kernel sends comes out of the device's file here, and what is
//! written there its kernel receives. The kernel's own netem would do the same, where it is built in.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{Read as _, Write as _},
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
};
use tether_tests::Space;
use vch::machine::tap::Tap;

/// The longest frame: an MTU of 1,500, Ethernet's header, the device's own header.
const LONGEST: usize = 1_500 + 14 + HEADER;
/// The TAP device's own header before each frame (`struct virtio_net_hdr`).
const HEADER: usize = 10;
/// How long the carrier waits for frames before it looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(20);

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the guest to its host.
    ToHost = 0,
    /// From the host to its guest.
    ToGuest = 1,
}

/// What becomes of frames, in percent of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// They are lost. 100: the link is cut, though both ends have a carrier.
    pub(crate) lost: u64,
    /// They come twice.
    pub(crate) doubled: u64,
    /// They are held back for up to 20 ms, and overtaken.
    pub(crate) late: u64,
}

impl Weather {
    pub(crate) const CLEAR: Self = Self { lost: 0, doubled: 0, late: 0 };
    pub(crate) const CUT: Self = Self { lost: 100, ..Self::CLEAR };
}

/// What has become of the frames of one way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Carried {
    /// How many have arrived.
    pub(crate) frames: u64,
    /// How many bytes TCP carried in them, those that were sent again included.
    pub(crate) bytes: u64,
    /// The longest, in bytes.
    pub(crate) longest: u64,
    /// How many were lost, doubled, overtaken.
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) late: u64,
}

/// The air between two places. It is gone, and so are both devices, with this value.
pub(crate) struct Air {
    ways: Arc<Mutex<[(Weather, Carried); 2]>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Air {
    /// Gives each of two spaces a device of this name, clear air between them. The same seed has the
    /// same luck with the same frames.
    pub(crate) fn between(guest: (&Space, &str), host: (&Space, &str), seed: u64) -> Self {
        let taps = [tap(guest.0, guest.1), tap(host.0, host.1)];
        let (ways, stop) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let carrier = Carrier {
            taps,
            ways: Arc::clone(&ways),
            held: BinaryHeap::new(),
            luck: Luck(seed | 1),
            number: 0,
        };
        let flag = Arc::clone(&stop);
        let thread = thread::spawn(move || carrier.carry(&flag));
        Self { ways, stop, thread: Some(thread) }
    }

    /// The weather is this, both ways, from now on.
    pub(crate) fn turns(&self, weather: Weather) {
        for way in [Way::ToHost, Way::ToGuest] {
            self.turns_one_way(way, weather);
        }
    }

    /// The weather of one way is this from now on.
    pub(crate) fn turns_one_way(&self, way: Way, weather: Weather) {
        self.ways.lock().expect("no panic")[way as usize].0 = weather;
    }

    /// What has been carried so far.
    pub(crate) fn carried(&self, way: Way) -> Carried {
        self.ways.lock().expect("no panic")[way as usize].1
    }
}

impl Drop for Air {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn tap(space: &Space, name: &str) -> File {
    let network = File::open(format!("/proc/{}/ns/net", space.id())).expect("its network namespace");
    let made = thread::spawn(move || {
        setns(network, CloneFlags::CLONE_NEWNET).expect("allowed");
        Tap::new().expect("a tap device: /dev/net/tun has to be there")
    });
    let tap = made.join().expect("a tap device");
    space.run(&format!("ip link set {} name {name}", tap.name));
    tap.file
}

/// A frame that is held back until then. The number has the first of two come first.
type Held = Reverse<(Instant, u64, usize, Vec<u8>)>;

struct Carrier {
    /// The guest's and the host's.
    taps: [File; 2],
    ways: Arc<Mutex<[(Weather, Carried); 2]>>,
    held: BinaryHeap<Held>,
    luck: Luck,
    number: u64,
}

impl Carrier {
    fn carry(mut self, stop: &AtomicBool) {
        let mut frame = [0; LONGEST];
        while !stop.load(Relaxed) {
            let now = Instant::now();
            while let Some(Reverse((due, ..))) = self.held.peek()
                && *due <= now
                && let Some(Reverse((_, _, way, bytes))) = self.held.pop()
            {
                self.deliver(way, &bytes);
            }
            let due = self.held.peek().map_or(LOOK, |Reverse((due, ..))| due.duration_since(now).min(LOOK));
            let wait = PollTimeout::try_from(due + Duration::from_millis(1)).expect("short");
            let ready = {
                let mut files = self.taps.each_ref().map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN));
                poll(&mut files, wait).expect("two files");
                files.map(|file| file.any().unwrap_or_default())
            };
            for way in [0, 1] {
                if ready[way] {
                    // Down, it says so; nothing is lost that was not sent.
                    let Ok(length) = self.taps[way].read(&mut frame) else { continue };
                    self.take(way, &frame[..length]);
                }
            }
        }
    }

    fn take(&mut self, way: usize, frame: &[u8]) {
        let (lost, doubled, late) = {
            let mut ways = self.ways.lock().expect("no panic");
            let (weather, carried) = &mut ways[way];
            let lost = self.luck.has(weather.lost);
            let doubled = !lost && self.luck.has(weather.doubled);
            let late = !lost && self.luck.has(weather.late);
            carried.lost += u64::from(lost);
            carried.doubled += u64::from(doubled);
            carried.late += u64::from(late);
            (lost, doubled, late)
        };
        if lost {
            return;
        }
        if late {
            self.number += 1;
            let due = Instant::now() + Duration::from_millis(1 + self.luck.next() % 20);
            self.held.push(Reverse((due, self.number, way, frame.to_vec())));
        } else {
            self.deliver(way, frame);
        }
        if doubled {
            self.deliver(way, frame);
        }
    }

    fn deliver(&mut self, way: usize, frame: &[u8]) {
        // A device that is down takes nothing.
        if self.taps[1 - way].write(frame).is_ok() {
            let frame = &frame[HEADER..];
            let carried = &mut self.ways.lock().expect("no panic")[way].1;
            carried.frames += 1;
            carried.bytes += payload(frame).unwrap_or_default();
            carried.longest = carried.longest.max(u64::try_from(frame.len()).expect("short"));
        }
    }
}

/// How many bytes TCP over IPv4 carries in a frame.
fn payload(frame: &[u8]) -> Option<u64> {
    let ip = frame.get(14..)?;
    let (version, protocol) = (ip.first()?, ip.get(9)?);
    if version >> 4 != 4 || *protocol != 6 {
        return None;
    }
    let total = u64::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let header = version & 15;
    let tcp = ip.get(usize::from(header) * 4 + 12)? >> 4;
    total.checked_sub(u64::from(header + tcp) * 4)
}

/// Numbers that are random enough, and the same for the same seed (xorshift64*, Vigna 2016).
struct Luck(u64);

impl Luck {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33
    }

    fn has(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}
