//! What an operator, or somebody who should not, does to a cluster.

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::kafka::{Broker, eventually, wait_on};

impl Broker {
    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("an admin client")
    }

    pub(crate) fn delete_topic(&self, topic: &str) {
        let deleted = wait_on(self.admin().delete_topics(&[topic], &AdminOptions::new())).expect("the broker answers");
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
        eventually(&format!("{topic} to be gone"), || self.partitions(topic).is_none());
    }

    /// Gives a topic more partitions.
    pub(crate) fn grow(&self, topic: &str, partitions: usize) {
        let wish = [NewPartitions::new(topic, partitions)];
        let grown = wait_on(self.admin().create_partitions(&wish, &AdminOptions::new())).expect("the broker answers");
        assert!(grown.iter().all(Result::is_ok), "{grown:?}");
    }

    /// Removes all records below an offset, as retention does.
    pub(crate) fn expire(&self, topic: &str, partition: i32, below: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(below)).expect("a valid offset");
        let removed = wait_on(self.admin().delete_records(&list, &AdminOptions::new())).expect("the broker answers");
        assert!(removed.elements().iter().all(|element| element.error().is_ok()), "{removed:?}");
    }

    /// Moves a group's offset, once nobody is a member of it any more.
    pub(crate) fn move_group(&self, group: &str, topic: &str, partition: i32, to: i64) {
        let mut config = self.client();
        config.set("group.id", group).set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(to)).expect("a valid offset");
        eventually(&format!("the members of {group} to be forgotten"), || {
            consumer.commit(&list, CommitMode::Sync).is_ok()
        });
    }
}
