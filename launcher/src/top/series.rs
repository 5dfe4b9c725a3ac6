//! A quantity over all steps of a run in bounded memory: when it is full, neighbours are joined to their mean.

/// Points kept at most; a terminal has fewer columns.
const MOST: usize = 1024;

/// A quantity over steps.
#[derive(Clone, Debug)]
pub struct Series {
    points: Vec<f64>,
    /// How many values a point is the mean of.
    each: u64,
    sum: f64,
    count: u64,
    last: Option<f64>,
}

impl Default for Series {
    fn default() -> Self {
        Self { points: Vec::new(), each: 1, sum: 0.0, count: 0, last: None }
    }
}

impl Series {
    /// One more value; what is not finite is left out.
    pub fn push(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.last = Some(value);
        self.sum += value;
        self.count += 1;
        if self.count < self.each {
            return;
        }
        self.points.push(self.sum / self.count as f64);
        (self.sum, self.count) = (0.0, 0);
        if self.points.len() >= MOST {
            self.points = self.points.chunks(2).map(|pair| pair.iter().sum::<f64>() / pair.len() as f64).collect();
            self.each *= 2;
        }
    }

    /// The newest value.
    #[must_use]
    pub fn last(&self) -> Option<f64> {
        self.last
    }

    /// Means over at most `width` stretches of equal length, oldest first.
    #[must_use]
    pub fn over(&self, width: usize) -> Vec<f64> {
        let all: Vec<f64> = self.points.iter().copied().chain(self.rest()).collect();
        if all.len() <= width {
            return all;
        }
        let edge = |column: usize| column * all.len() / width;
        let mean = |column: usize| {
            let part = &all[edge(column)..edge(column + 1)];
            part.iter().sum::<f64>() / part.len() as f64
        };
        (0..width).map(mean).collect()
    }

    /// What has not made a whole point yet.
    fn rest(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_values_stay_bounded_and_keep_their_shape() {
        let mut series = Series::default();
        (0..1_000_000).for_each(|step| series.push(f64::from(step)));
        assert!(series.points.len() < MOST);
        let shown = series.over(10);
        assert_eq!(shown.len(), 10);
        for (column, mean) in shown.iter().enumerate() {
            let expected = 1e5 * (column as f64 + 0.5);
            assert!((mean - expected).abs() < 3e3, "{column}: {mean}");
        }
        assert_eq!(series.last(), Some(999_999.0));
    }

    #[test]
    fn few_values_are_shown_as_they_are_and_what_is_no_number_is_left_out() {
        let mut series = Series::default();
        [1.0, f64::NAN, 3.0, f64::INFINITY].into_iter().for_each(|value| series.push(value));
        assert_eq!(series.over(10), [1.0, 3.0]);
        assert_eq!(Series::default().over(5), Vec::<f64>::new());
    }
}
