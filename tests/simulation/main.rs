//! A deterministic simulation of the worker's protocol: [`ebbtide::kafka::commit`] and [`ebbtide::kafka::takeover`],
//! the same code that the real worker runs, against simulated brokers and a network that loses, delays and repeats.
//!
//! Each seed is a life of its own: a few processes, a toy shard for each partition, crashes, lost disks, stopped
//! processes that come back as zombies, cut networks, rebalances, compactions, expired offsets. At the end the committed
//! output must be what the input demands: nothing lost, nothing twice, and no local copy ahead of the changelog.
//!
//! `SEED=17 cargo test --test simulation` lives one life and prints what happened in it; `SEEDS=100000` lives many.

#![expect(clippy::print_stdout, reason = "a failing seed and its life are shown to a person")]

mod broker;
mod group;
mod member;
mod mutation;
mod process;
mod toy;
mod worker;
mod world;

use std::collections::BTreeMap;

use mutation::Mutation;
use world::World;

/// Lives in an ordinary run.
const SEEDS: u64 = 3_000;
/// Within so many lives each broken rule has to be noticed.
const MUTATION_SEEDS: u64 = 30_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn exactly_once_whatever_happens() {
    let one = number("SEED");
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in seeds {
        let run = World::run(seed, None, one.is_some());
        for line in &run.log {
            println!("{line}");
        }
        if let Some(violation) = run.violation {
            panic!("{violation}\nlive this life again, and see it: SEED={seed} cargo test --test simulation");
        }
        for (what, count) in run.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    println!("{counts:#?}");
    if one.is_none() {
        for what in [
            "crashes",
            "crashes with a lost disk",
            "stops",
            "replacements of a stopped process",
            "outages",
            "cut answers",
            "cut networks",
            "departures",
            "compactions",
            "expired offsets",
            "repeated requests",
            "claims of a forgotten member",
            "commits of others noticed",
        ] {
            assert!(counts.contains_key(what), "these lives had no {what}: they prove less than they say");
        }
    }
}

#[test]
fn one_seed_is_one_life() {
    for seed in 0..20 {
        let first = World::run(seed, None, true).log;
        assert!(first.len() > 100, "seed {seed} had an idle life");
        assert!(first == World::run(seed, None, true).log, "seed {seed} had two lives");
    }
}

#[test]
fn every_broken_rule_is_noticed() {
    let mut unnoticed = Vec::new();
    for mutation in Mutation::ALL {
        let found =
            (0..MUTATION_SEEDS).find_map(|seed| Some((seed, World::run(seed, Some(mutation), false).violation?)));
        match found {
            Some((seed, violation)) => println!("{mutation:?}: seed {seed}: {violation}"),
            None => unnoticed.push(mutation),
        }
    }
    assert!(unnoticed.is_empty(), "not noticed within {MUTATION_SEEDS} lives: {unnoticed:?}");
}
