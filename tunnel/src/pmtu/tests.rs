//! The search against a simulated path.

use super::*;
use proptest::prelude::*;

/// A path: what the local link takes, what the rest takes, and whether anything comes back.
struct Path {
    link: u16,
    path: u16,
    up: bool,
    /// Every n-th probe is lost; 0: none.
    loss: u32,
    sent: u32,
}

impl Path {
    const fn of(link: u16, path: u16) -> Self {
        Self {
            link,
            path,
            up: true,
            loss: 0,
            sent: 0,
        }
    }
}

/// Runs the search with traffic for `time`, with 1 ms of round trip; gives the clock after that.
fn run(search: &mut PathSearch, path: &mut Path, from: Duration, time: Duration) -> Duration {
    let (mut now, mut sizes) = (from, Vec::new());
    let mut coming: Vec<u32> = Vec::new();
    while now < from + time {
        for id in std::mem::take(&mut coming) {
            search.answered(id, now);
        }
        while search.due() <= now {
            search.poll(now, true, &mut sizes);
            let tried = !sizes.is_empty();
            for size in std::mem::take(&mut sizes) {
                if size > path.link {
                    search.refused(size, now);
                    continue;
                }
                path.sent += 1;
                search.sent(size, path.sent, now);
                let lost = path.loss > 0 && path.sent.is_multiple_of(path.loss);
                if path.up && !lost && size <= path.path {
                    coming.push(path.sent);
                }
            }
            if tried {
                search.all_tried(now);
            }
        }
        now += Duration::from_millis(1);
    }
    now
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_ethernet_path_is_found_at_once_and_a_jumbo_link_used() {
    for (link, mtu) in [(1500, 1500), (9000, 9000), (9000, 1500), (1500, 1300)] {
        let mut search = PathSearch::new(Duration::ZERO);
        run(
            &mut search,
            &mut Path::of(link, mtu),
            Duration::ZERO,
            SECOND * 2,
        );
        assert_eq!(search.settled(), Some(mtu), "link {link}");
    }
}

#[test]
fn a_black_hole_is_left_in_less_than_a_second_and_the_way_back_found() {
    let mut path = Path::of(1500, 1500);
    let mut search = PathSearch::new(Duration::ZERO);
    let now = run(&mut search, &mut path, Duration::ZERO, SECOND);
    path.path = 1300;
    let now = run(&mut search, &mut path, now, Duration::from_millis(400));
    assert!(search.current().is_some_and(|mtu| mtu <= 1300));
    let now = run(&mut search, &mut path, now, Duration::from_millis(600));
    assert_eq!(search.settled(), Some(1300));
    path.path = 1500;
    run(&mut search, &mut path, now, RAISE_EVERY + SECOND * 2);
    assert_eq!(search.settled(), Some(1500));
}

#[test]
fn a_lowered_local_link_counts_at_once() {
    let mut path = Path::of(1500, 1500);
    let mut search = PathSearch::new(Duration::ZERO);
    let now = run(&mut search, &mut path, Duration::ZERO, SECOND);
    (path.link, path.path) = (1300, 1300);
    run(&mut search, &mut path, now, Duration::from_millis(100));
    assert_eq!(search.settled(), Some(1300));
}

#[test]
fn an_outage_says_nothing_about_sizes() {
    let mut path = Path::of(1500, 1500);
    let mut search = PathSearch::new(Duration::ZERO);
    let now = run(&mut search, &mut path, Duration::ZERO, SECOND);
    path.up = false;
    let now = run(&mut search, &mut path, now, SECOND * 20);
    assert_eq!(
        (search.current(), search.settled()),
        (Some(1500), Some(1500))
    );
    path.up = true;
    run(&mut search, &mut path, now, SECOND * 3);
    assert_eq!(search.settled(), Some(1500));
}

#[test]
fn a_peer_that_never_answers_limits_nothing_and_is_left_alone() {
    let mut path = Path::of(1500, 1500);
    path.up = false;
    let mut search = PathSearch::new(Duration::ZERO);
    run(&mut search, &mut path, Duration::ZERO, SECOND * 300);
    assert_eq!((search.current(), search.settled()), (None, None));
    // Two ladders, then two small probes twice a minute.
    assert!(path.sent < 100, "{}", path.sent);
}

#[test]
fn a_peer_that_begins_to_answer_late_is_searched_whole() {
    let mut path = Path::of(9000, 1400);
    path.up = false;
    let mut search = PathSearch::new(Duration::ZERO);
    let now = run(&mut search, &mut path, Duration::ZERO, SECOND * 120);
    path.up = true;
    run(&mut search, &mut path, now, SILENCE_MAX + SECOND * 3);
    assert_eq!(search.settled(), Some(1400));
}

#[test]
fn a_forged_too_big_changes_nothing_for_good() {
    let mut path = Path::of(1500, 1500);
    let mut search = PathSearch::new(Duration::ZERO);
    let mut now = run(&mut search, &mut path, Duration::ZERO, SECOND);
    for _ in 0..20 {
        search.hinted(now);
        now = run(&mut search, &mut path, now, Duration::from_millis(60));
        assert_eq!(search.settled(), Some(1500));
    }
}

#[test]
fn answers_that_nobody_asked_for_are_ignored() {
    let mut search = PathSearch::new(Duration::ZERO);
    let mut sizes = Vec::new();
    search.poll(Duration::ZERO, true, &mut sizes);
    search.answered(7, Duration::ZERO);
    search.poll(ANSWER_MAX, true, &mut sizes);
    assert_eq!(search.current(), None);
}

#[test]
fn without_traffic_there_are_few_probes() {
    let (mut path, mut sizes) = (Path::of(1500, 1500), Vec::new());
    let mut search = PathSearch::new(Duration::ZERO);
    let mut now = run(&mut search, &mut path, Duration::ZERO, SECOND);
    let (until, mut polls) = (now + SECOND * 60, 0);
    while now < until {
        if search.due() <= now {
            polls += 1;
            search.poll(now, false, &mut sizes);
            for size in sizes.drain(..) {
                if size > 1500 {
                    search.refused(size, now);
                } else {
                    search.sent(size, polls, now);
                }
            }
            search.all_tried(now);
        }
        now += Duration::from_millis(1);
    }
    assert!(polls < 60, "{polls}");
}

proptest! {
    #[test]
    fn whatever_the_path_it_is_found_exactly(link in 576_u16..=65_535, path in 576_u16..=65_535) {
        let mtu = link.min(path);
        let mut search = PathSearch::new(Duration::ZERO);
        run(&mut search, &mut Path::of(link, mtu), Duration::ZERO, SECOND * 5);
        prop_assert_eq!(search.settled(), Some(mtu));
    }

    #[test]
    fn loss_never_finds_more_than_there_is(mtu in 576_u16..=9000, loss in 3_u32..20) {
        let mut path = Path::of(9000, mtu);
        path.loss = loss;
        let mut search = PathSearch::new(Duration::ZERO);
        run(&mut search, &mut path, Duration::ZERO, SECOND * 20);
        prop_assert!(search.current().is_some_and(|current| current <= mtu));
    }
}
