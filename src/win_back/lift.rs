//! The lift: what a campaign added beyond those who would have returned anyway.

/// One group of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arm {
    /// Users in it, each observed for the whole time in question.
    pub users: u64,
    /// Those of them who returned.
    pub returned: u64,
}

/// The difference of the two return rates, treated less held out, with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lift {
    /// The difference, -1 to 1.
    pub difference: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// The 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

impl Arm {
    /// The share that returned; `None` without users.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a count of users is far below 2^53")]
    pub fn rate(&self) -> Option<f64> {
        (self.users > 0).then(|| self.returned as f64 / self.users as f64)
    }

    /// Wilson's score interval at 95 %. `None` without users.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a count of users is far below 2^53")]
    pub fn interval(&self) -> Option<(f64, f64)> {
        let (n, p) = (self.users as f64, self.rate()?);
        let centre = p + Z * Z / (2.0 * n);
        let reach = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        Some((((centre - reach) / scale).max(0.0), ((centre + reach) / scale).min(1.0)))
    }
}

impl Lift {
    /// Newcombe's hybrid score interval for the difference of two independent proportions (Newcombe, "Interval
    /// estimation for the difference between independent proportions", Statistics in Medicine 17 (1998), 873-890,
    /// method 10). `None` unless both groups have users.
    #[must_use]
    pub fn of(treated: Arm, held_out: Arm) -> Option<Self> {
        let (p1, p2) = (treated.rate()?, held_out.rate()?);
        let ((low1, high1), (low2, high2)) = (treated.interval()?, held_out.interval()?);
        let difference = p1 - p2;
        Some(Self {
            difference,
            low: difference - (p1 - low1).hypot(high2 - p2),
            high: difference + (high1 - p1).hypot(p2 - low2),
        })
    }
}
