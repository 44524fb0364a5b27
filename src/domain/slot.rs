//! When the runs that wait will train, from what was measured.

/// When a run that waits is expected to begin and to end, in seconds from now; `None` where nothing comparable was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slot {
    /// When the device is free for it.
    pub start: Option<f64>,
    /// When it is done.
    pub end: Option<f64>,
}

/// The slots of runs that wait for one device, in the order in which they get it. `busy` are the seconds until the run that
/// has it now is done, 0 when none has, and `waiting` those that each of the others will take. After the first that nobody
/// can tell, nobody can tell the start of the next. That a run begins at once is told with its end, not by itself: it is no
/// measure.
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
    fn each_begins_when_the_one_before_it_ends() {
        assert_eq!(estimate_slots(Some(10.0), &[Some(60.0), Some(5.0)]), [slot(10.0, 70.0), slot(70.0, 75.0)]);
    }

    #[test]
    fn on_a_free_device_the_next_begins_at_once() {
        assert_eq!(estimate_slots(Some(0.0), &[Some(60.0)]), [slot(0.0, 60.0)]);
        assert_eq!(estimate_slots(Some(0.0), &[]), []);
    }

    #[test]
    fn behind_a_run_of_unknown_length_nothing_is_guessed() {
        let unknown = Slot::default();
        assert_eq!(estimate_slots(None, &[Some(60.0), Some(5.0)]), [unknown; 2]);
        assert_eq!(estimate_slots(Some(0.0), &[None, Some(5.0)]), [unknown; 2]);
        assert_eq!(estimate_slots(Some(10.0), &[None, Some(5.0)]), [Slot { start: Some(10.0), end: None }, unknown]);
    }
}
