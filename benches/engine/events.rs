//! Events as clients send them: native format, about 200 bytes, more in them than Ebbtide needs.

use std::io::Write as _;

use ebbtide::event::Record;
use ebbtide::time::EventTime;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const NAMES: [&str; 5] = ["Page Viewed", "Task Completed", "Report Created", "Comment Added", "Session Started"];

/// Makes events, each different; the same seed makes the same ones.
pub(crate) struct Maker {
    rng: ChaCha8Rng,
    clock: EventTime,
    /// How many events share a millisecond.
    per_millisecond: u64,
    made: u64,
}

/// Records in one piece of memory.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Maker {
    /// Events from `start` on, `per_second` of them in each second of event time.
    pub(crate) fn new(seed: u64, start: EventTime, per_second: u64) -> Self {
        let per_millisecond = (per_second / 1_000).max(1);
        Self { rng: ChaCha8Rng::seed_from_u64(seed), clock: start, per_millisecond, made: 0 }
    }

    /// A number below `count`.
    pub(crate) fn pick(&mut self, count: u64) -> u64 {
        self.rng.random_range(0..count)
    }

    /// Appends one event of `user_id`.
    pub(crate) fn write(&mut self, user_id: &str, out: &mut Vec<u8>) -> anyhow::Result<()> {
        self.made += 1;
        if self.made.is_multiple_of(self.per_millisecond) {
            self.clock = EventTime::from_millis(self.clock.as_millis() + 1);
        }
        let name = NAMES[self.rng.random_range(0..NAMES.len())];
        let (time, id, project) = (self.clock, self.rng.random::<u64>(), self.rng.random_range(0..100_000));
        write!(
            out,
            r#"{{"user_id":"{user_id}","event":"{name}","time":"{time}","id":"{id:016x}","properties":{{"plan":"pro","country":"DE","path":"/projects/{project}","browser":"Firefox 140"}}}}"#
        )?;
        Ok(())
    }
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub(crate) fn add(&mut self, maker: &mut Maker, user_id: &str) -> anyhow::Result<()> {
        maker.write(user_id, &mut self.bytes)?;
        self.ends.push(self.bytes.len());
        Ok(())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The records, numbered from `offset` on.
    pub(crate) fn records(&self, offset: i64) -> Vec<Record<'_>> {
        let mut start = 0;
        let bounds = self.ends.iter().map(|&end| (std::mem::replace(&mut start, end), end));
        bounds
            .zip(offset..)
            .map(|((start, end), offset)| Record {
                key: None,
                value: Some(&self.bytes[start..end]),
                headers: &[],
                offset,
            })
            .collect()
    }
}
