//! A backlog that is larger than what the program may hold, and how much of it the program does hold.

use super::instance::{Deployment, Instance};
use super::kafka::{Broker, Message, eventually};

/// So many records of a kilobyte each: more than the bound below, and none of it may be held for long.
const RECORDS: u32 = 300_000;
/// `state.memory` (64 MiB), what two workers read ahead (16 MiB each), what two commits hold, and the program itself.
const MEMORY_MAX: f64 = 240.0 * 1024.0 * 1024.0;
const USERS: u32 = 5_000;

pub(crate) struct Backlog {
    instance: Instance,
}

impl Backlog {
    /// Sends it, spread over two partitions.
    pub(crate) fn send(broker: &Broker, deployment: &Deployment) -> Self {
        let filler = "x".repeat(900);
        let sender = broker.sender();
        for number in 0..RECORDS {
            let (user, time) = (number % USERS, 1_704_067_200_000 + u64::from(number));
            let value = format!(
                r#"{{"user_id":"user-{user}","event":"Opened","time":{time},"properties":{{"x":"{filler}"}}}}"#
            );
            let partition = Some(i32::try_from(user % 2).expect("0 or 1"));
            let message = Message { partition, value: Some(value.into_bytes()), ..Message::default() };
            sender.send(&deployment.events(), &message);
        }
        sender.flush();
        Self { instance: deployment.instance("one") }
    }

    /// Starts an instance, and watches its memory until everything is read and committed.
    pub(crate) fn read_in_bounded_memory(mut self) {
        let one = &mut self.instance;
        one.start();
        let mut most = 0.0_f64;
        eventually("the backlog to be read", || {
            one.assert_alive();
            most = most.max(one.metric("ebbtide_process_resident_memory_bytes").unwrap_or(0.0));
            one.metric("ebbtide_events_total").is_some_and(|read| read >= f64::from(RECORDS))
        });
        eprintln!("resident at most {:.0} MiB over a backlog of {} MiB", most / 1_048_576.0, RECORDS / 1024);
        assert!(most > 0.0 && most < MEMORY_MAX, "{most} bytes");
        one.stop();
    }
}
