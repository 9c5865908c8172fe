//! Entries, exits and attributions, as bytes (SPEC-WINBACK sections 9 and 10).

use super::{Writer, put_flag, put_float, put_name, put_number, put_string, put_text, put_time};
use crate::lifecycle::{Policy, User};
use crate::segment::{Cause, Move};
use crate::shard::effect::{Output, Topic};
use crate::time::{EventTime, WallTime};
use crate::win_back::{Attribution, Comeback};

impl Writer {
    /// An entry or exit, with the user as it is after the cause was counted.
    pub(in crate::shard) fn segment(
        &self,
        user_id: &str,
        user: &User,
        moved: &Move<'_>,
        held_out: bool,
        policy: &Policy,
        now: WallTime,
    ) -> Output {
        let mut out = Vec::with_capacity(640);
        out.extend_from_slice(b"{\"id\":");
        let id = format!("{user_id}:segments:{}", moved.seq);
        put_string(&mut out, &id);
        put_number(&mut out, "seq", moved.seq);
        put_text(&mut out, "user_id", user_id);
        put_text(&mut out, "segment", moved.segment);
        put_name(&mut out, "action", Some(moved.action.as_str()));
        match moved.cause {
            Cause::Transition(seq) => put_text(&mut out, "cause", &format!("{user_id}:{seq}")),
            Cause::Activity => put_name(&mut out, "cause", Some("activity")),
            Cause::Time => put_name(&mut out, "cause", Some("time")),
            Cause::Properties => put_name(&mut out, "cause", Some("properties")),
            Cause::Deleted => put_name(&mut out, "cause", Some("deleted")),
            Cause::DefinitionChanged => put_name(&mut out, "cause", Some("definition_changed")),
        }
        put_time(&mut out, "effective_at", Some(moved.effective_at));
        put_time(&mut out, "detected_at", Some(now.as_event_time()));
        if held_out {
            put_flag(&mut out, "holdout", true);
        }
        put_name(&mut out, "state", user.life.as_ref().map(|life| life.state.as_str()));
        self.put_record(&mut out, user, moved.effective_at, policy);
        out.push(b'}');
        self.measured(Topic::Segments, "ebbtide.segment.v1", user_id, &id, moved.effective_at, out)
    }

    /// A return that a campaign brought.
    pub(in crate::shard) fn attributed(
        &self,
        user_id: &str,
        comeback: &Comeback,
        attribution: &Attribution,
        held_out: bool,
        now: WallTime,
    ) -> Output {
        let mut out = Vec::with_capacity(384);
        out.extend_from_slice(b"{\"id\":");
        let transition = format!("{user_id}:{}", comeback.seq);
        let id = format!("{transition}:attributed");
        put_string(&mut out, &id);
        put_name(&mut out, "kind", Some("attributed"));
        put_text(&mut out, "user_id", user_id);
        put_text(&mut out, "campaign", &attribution.campaign);
        put_text(&mut out, "transition", &transition);
        put_time(&mut out, "effective_at", Some(attribution.at));
        put_time(&mut out, "detected_at", Some(now.as_event_time()));
        put_time(&mut out, "returned_at", Some(comeback.at));
        put_float(&mut out, "away_days", Some(comeback.away().as_days()));
        put_name(&mut out, "away_from", Some(comeback.away_from.as_str()));
        if held_out {
            put_flag(&mut out, "holdout", true);
        }
        out.push(b'}');
        self.measured(Topic::Outcomes, "ebbtide.outcome.v1", user_id, &id, attribution.at, out)
    }

    fn measured(&self, topic: Topic, kind: &str, user_id: &str, id: &str, at: EventTime, value: Vec<u8>) -> Output {
        let headers = self.headers(kind, id, at);
        Output { topic, key: Some(user_id.as_bytes().to_vec()), value: Some(value), headers }
    }
}
