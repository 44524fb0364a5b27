//! Estimated start and end times of queued runs.

/// Estimated time slot of a queued run, in seconds from now. `None` if no comparable run has been measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slot {
    /// Estimated start: when the device becomes free.
    pub start: Option<f64>,
    /// Estimated end.
    pub end: Option<f64>,
}

/// Estimates the slots of the runs queued for one device, in queue order. `busy` is the number of seconds until the current run ends (0 if
/// the device is free), and `waiting` the estimated duration of each queued run.
///
/// After a run of unknown duration all later slots are unknown. An immediate start is only reported together with an end: without a
/// measured duration it is not an estimate.
pub fn estimate_slots(busy: Option<f64>, waiting: &[Option<f64>]) -> Vec<Slot> {
    let mut free = busy;
    let slot = |seconds: &Option<f64>| {
        let start = free.filter(|start| *start > 0.0 || seconds.is_some());
        free = start.zip(*seconds).map(|(start, seconds)| start + seconds);
        Slot { start, end: free }
    };
    waiting.iter().map(slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(start: f64, end: f64) -> Slot {
        Slot { start: Some(start), end: Some(end) }
    }

    #[test]
    fn a_run_starts_when_the_previous_one_ends() {
        assert_eq!(estimate_slots(Some(10.0), &[Some(60.0), Some(5.0)]), [slot(10.0, 70.0), slot(70.0, 75.0)]);
    }

    #[test]
    fn on_a_free_device_the_first_run_starts_immediately() {
        assert_eq!(estimate_slots(Some(0.0), &[Some(60.0)]), [slot(0.0, 60.0)]);
        assert_eq!(estimate_slots(Some(0.0), &[]), []);
    }

    #[test]
    fn slots_after_a_run_of_unknown_duration_are_unknown() {
        let unknown = Slot::default();
        assert_eq!(estimate_slots(None, &[Some(60.0), Some(5.0)]), [unknown; 2]);
        assert_eq!(estimate_slots(Some(0.0), &[None, Some(5.0)]), [unknown; 2]);
        assert_eq!(estimate_slots(Some(10.0), &[None, Some(5.0)]), [Slot { start: Some(10.0), end: None }, unknown]);
    }
}
