//! The rules of SPEC section 7, each broken on purpose: the simulation has to notice.

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// The local store is written before the transaction is committed.
    ApplyBeforeCommit,
    /// An unknown outcome is taken for a success.
    GuessTaken,
    /// An unknown outcome is taken for a failure.
    GuessLost,
    /// An unknown outcome is resolved without a new producer.
    ReuseProducerAfterTimeout,
    /// A producer goes on after a slow or repeated call.
    TrustSlowCalls,
    /// Only the clock tells whether a request may have been repeated, not the lost connection.
    TrustQuickRepeats,
    /// The outcome is read from the offset alone, which does not move when only time has passed.
    ResolveByOffsetAlone,
    /// Restoring ends at the last stable offset.
    RestoreToLastStable,
    /// Restoring reads aborted records too.
    RestoreUncommitted,
    /// A local copy is trusted although deletions after it may be gone from the changelog.
    TrustStaleCopy,
    /// The worker goes on when it is told that it is fenced.
    IgnoreFencing,
    /// Offsets are sent without the group's generation.
    ForgetGeneration,
    /// Offsets are sent in the newest generation that the client knows: it hears of one before the worker has heard what
    /// that one takes away.
    NewestGeneration,
    /// Offsets are sent although the session is lost, with what the client then says of itself.
    CommitWhileLost,
    /// Nobody looks whether somebody else has committed before the first commit of a generation.
    TrustClaims,
    /// The work on a lost partition is kept and committed in the next generation, as if it had never been lost.
    KeepLostPartition,
    /// A contradiction of offsets stops the program without a second look.
    StopAtFirstSight,
    /// The group's offset decides where to resume.
    ResumeFromGroup,
}

impl Mutation {
    pub(crate) const ALL: [Self; 18] = [
        Self::ApplyBeforeCommit,
        Self::GuessTaken,
        Self::GuessLost,
        Self::ReuseProducerAfterTimeout,
        Self::TrustSlowCalls,
        Self::TrustQuickRepeats,
        Self::ResolveByOffsetAlone,
        Self::RestoreToLastStable,
        Self::RestoreUncommitted,
        Self::TrustStaleCopy,
        Self::IgnoreFencing,
        Self::ForgetGeneration,
        Self::NewestGeneration,
        Self::CommitWhileLost,
        Self::TrustClaims,
        Self::KeepLostPartition,
        Self::StopAtFirstSight,
        Self::ResumeFromGroup,
    ];
}
