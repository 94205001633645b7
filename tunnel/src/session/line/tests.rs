#![expect(
    clippy::disallowed_methods,
    reason = "there is no other way to an instant, and none of these waits"
)]

use crate::esp::{Sender, export_keys};
use crate::secure::SecureSpec;

use super::*;

const SETTINGS: SessionSettings = SessionSettings {
    rekey_after: Duration::from_secs(100),
    idle_after: Duration::from_secs(1000),
};

fn ends() -> Ends {
    Ends {
        ours: "10.0.0.1:4788".parse().unwrap(),
        theirs: "10.0.0.2:4788".parse().unwrap(),
    }
}

fn line(keep: bool, now: Instant) -> Line<()> {
    let spec = SecureSpec {
        node: "b".to_owned(),
        port: 4788,
        keep,
    };
    Line::new(Arc::new(SecurePeer::new(&spec)), now)
}

fn session(spi: u32, number: u64, (ours, lower): (bool, bool), since: Instant) -> Session<()> {
    let material = export_keys(Sender::Initiator, 0, |out, _, _| {
        out.fill(1);
        Ok::<_, ()>(())
    });
    let spi = Spi::new(spi).unwrap();
    Session {
        connection: (),
        ours,
        number,
        lower,
        spi,
        sealing: Arc::new(SealingKey::new(spi, &material.unwrap())),
        since,
        until: after(since, 1_000_000),
        incarnation: 1,
        seen: None,
        retire_at: None,
    }
}

fn after(now: Instant, secs: u64) -> Instant {
    now + Duration::from_secs(secs)
}

#[test]
fn of_two_that_opened_at_once_both_sides_keep_the_lower_ones() {
    let now = Instant::now();
    // The same two sessions arrive in either order, seen from either side.
    for order in [[256, 257], [257, 256]] {
        let mut line = line(true, now);
        for spi in order {
            let lower = spi == 256;
            line.add(session(spi, 1, (lower, lower), now), now);
        }
        assert_eq!(line.best().unwrap().spi.value(), 256);
        assert!(line.retired(after(now, 9)).is_empty());
        let gone: Vec<u32> = line
            .retired(after(now, 10))
            .iter()
            .map(|s| s.spi.value())
            .collect();
        assert_eq!(gone, [257]);
        assert_eq!(line.best().unwrap().spi.value(), 256);
    }
}

#[test]
fn a_key_is_replaced_in_time_by_who_opened_it_and_late_by_the_other() {
    let now = Instant::now();
    for (ours, due) in [(true, 100), (false, 125)] {
        let mut line = line(true, now);
        assert_eq!(line.next(SETTINGS, ends(), now), Next::Open);
        line.add(session(256, 4, (ours, true), now), now);
        assert_eq!(
            line.next(SETTINGS, ends(), after(now, due - 1)),
            Next::Nothing
        );
        assert_eq!(line.next(SETTINGS, ends(), after(now, due)), Next::Open);
        let call = line.call(ends().theirs);
        assert_eq!(
            call,
            Call {
                to: ends().theirs,
                number: 5
            }
        );
        // One at a time.
        assert_eq!(line.next(SETTINGS, ends(), after(now, due)), Next::Nothing);
        line.add(
            session(257, 5, (true, true), after(now, due)),
            after(now, due),
        );
        assert_eq!(line.best().unwrap().spi.value(), 257);
        assert_eq!(line.retired(after(now, due + 10)).len(), 1);
    }
}

#[test]
fn failures_are_repeated_ever_less_often_and_at_both_addresses() {
    let now = Instant::now();
    let mut line = line(true, now);
    let moved = "10.0.0.77:1024".parse().unwrap();
    line.add(session(256, 1, (true, true), now), now);
    let key = Arc::clone(&line.best().unwrap().sealing);
    let spi = line.best().unwrap().spi;
    line.secure.publish(key, (spi, moved), |_, _| {});
    line.ended(Spi::new(256).unwrap(), "silence".to_owned(), false);
    line.secure.unpublish();
    let mut at = after(now, 1);
    let mut called = Vec::new();
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert_eq!(line.next(SETTINGS, ends(), at), Next::Open);
        called.push(line.call(ends().theirs).to);
        line.failed("nobody".to_owned(), at);
        let mut wait = Duration::ZERO;
        while line.next(SETTINGS, ends(), at + wait) == Next::Nothing {
            wait += Duration::from_millis(100);
        }
        waits.push(wait.as_millis());
        at += wait;
    }
    assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    assert_eq!(called[..4], [moved, ends().theirs, moved, ends().theirs]);
    assert_eq!(line.trouble.as_deref(), Some("nobody"));
}

#[test]
fn unused_sessions_rest_until_they_are_wanted_but_not_behind_nat() {
    let now = Instant::now();
    let mut line = line(true, now);
    line.add(session(256, 1, (true, true), now), now);
    let key = Arc::clone(&line.best().unwrap().sealing);
    let spi = line.best().unwrap().spi;
    let elsewhere = "9.9.9.9:9".parse().unwrap();
    line.secure
        .publish(Arc::clone(&key), (spi, elsewhere), |_, _| {});
    let settings = SessionSettings {
        rekey_after: Duration::from_secs(100_000),
        ..SETTINGS
    };
    assert_eq!(line.next(settings, ends(), after(now, 2000)), Next::Nothing);
    line.secure.publish(key, (spi, ends().theirs), |_, _| {});
    line.secure.note_use();
    assert_eq!(line.next(settings, ends(), after(now, 3000)), Next::Nothing);
    assert_eq!(line.next(settings, ends(), after(now, 3999)), Next::Nothing);
    assert_eq!(line.next(settings, ends(), after(now, 4000)), Next::Close);
    assert_eq!(line.rest().len(), 1);
    line.secure.unpublish();
    assert_eq!(line.next(settings, ends(), after(now, 5000)), Next::Nothing);
    let sessions = crate::secure::Sessions::default();
    sessions.want(&line.secure);
    assert_eq!(line.next(settings, ends(), after(now, 5000)), Next::Open);
}

#[test]
fn who_started_anew_has_no_older_sessions() {
    let now = Instant::now();
    let mut line = line(false, now);
    line.add(session(256, 9, (true, true), now), now);
    let mut anew = session(257, 1, (false, false), now);
    anew.incarnation = 2;
    let dead: Vec<u32> = line.add(anew, now).iter().map(|s| s.spi.value()).collect();
    assert_eq!(dead, [256]);
    assert_eq!(line.best().unwrap().spi.value(), 257);
    // Its number is below what there was: the next one is above.
    assert_eq!(line.call(ends().theirs).number, 10);
    // The end of the dead one changes nothing.
    line.ended(Spi::new(256).unwrap(), "reset".to_owned(), false);
    assert_eq!((line.sessions.len(), line.trouble.clone()), (1, None));
}

#[test]
fn a_session_that_nothing_replaces_ends_by_age_by_packets_and_with_a_certificate() {
    let now = Instant::now();
    let old = || session(256, 1, (true, true), now);
    let worn = old();
    assert!(worn.sealing.reserve(1 << 29).is_ok());
    let of_short_certificate = Session {
        until: after(now, 50),
        ..old()
    };
    for (session, end) in [(old(), 220), (worn, 0), (of_short_certificate, 50)] {
        let mut line = line(true, now);
        line.add(session, now);
        if end > 0 {
            assert!(line.over(SETTINGS, after(now, end - 1)).is_empty());
        }
        assert_eq!(line.over(SETTINGS, after(now, end)).len(), 1);
        assert!(line.best().is_none() && line.trouble.is_some());
        assert_eq!(line.next(SETTINGS, ends(), after(now, end + 1)), Next::Open);
    }
    // Why no other one could be made is what people hear.
    let mut line = line(true, now);
    line.add(old(), now);
    line.failed("nobody there".to_owned(), after(now, 200));
    assert_eq!(line.over(SETTINGS, after(now, 220)).len(), 1);
    assert_eq!(line.trouble.as_deref(), Some("nobody there"));
}

#[test]
fn numbers_leap_only_so_far_and_never_wrap() {
    let now = Instant::now();
    let mut line = line(true, now);
    assert!(line.believes(1) && line.believes(1 << 32));
    assert!(!line.believes((1 << 32) + 1) && !line.believes(u64::MAX));
    line.add(session(256, u64::MAX, (true, true), now), now);
    assert!(line.believes(u64::MAX));
    assert_eq!(line.call(ends().theirs).number, u64::MAX);
}

#[test]
fn sessions_are_not_opened_one_right_after_the_other() {
    let now = Instant::now();
    let mut line = line(true, now);
    let worn = session(256, 1, (true, true), now);
    assert!(worn.sealing.reserve(1 << 28).is_ok());
    line.add(worn, now);
    assert_eq!(line.next(SETTINGS, ends(), now), Next::Nothing);
    assert_eq!(line.next(SETTINGS, ends(), now + AGAIN_MIN), Next::Open);
}

#[test]
fn who_is_not_heard_by_packet_or_frame_is_silent() {
    let now = Instant::now();
    let mut line = line(true, now);
    assert_eq!(line.silent(after(now, 60)), None);
    line.add(session(256, 1, (true, true), now), now);
    assert_eq!(line.silent(after(now, 5)), None);
    assert_eq!(line.silent(after(now, 6)), Some(Duration::from_secs(6)));
    line.listen(7, after(now, 6));
    assert_eq!(line.silent(after(now, 11)), None);
    // The same packets are no news; a frame is.
    line.listen(7, after(now, 11));
    assert_eq!(line.silent(after(now, 13)), Some(Duration::from_secs(7)));
    line.secure.note_heard();
    line.listen(7, after(now, 13));
    assert_eq!(line.silent(after(now, 18)), None);
}
