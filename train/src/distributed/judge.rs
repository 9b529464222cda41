//! Which rank is to blame when a job stands still: pure arithmetic on what the ranks tell of themselves.

use std::time::Duration;

/// What a rank is doing, as far as it matters to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Doing {
    /// Reading, compiling, saving, evaluating, waiting for data: it may take long.
    #[default]
    Other = 0,
    /// A step: the next tick should come about as soon as the last did.
    Working = 1,
    /// Waiting for the other ranks.
    Waiting = 2,
    /// Nothing more: the rank has left the job in good order.
    Done = 3,
}

impl Doing {
    pub(super) fn of(number: u8) -> Doing {
        [Doing::Other, Doing::Working, Doing::Waiting, Doing::Done]
            .into_iter()
            .find(|doing| *doing as u8 == number)
            .unwrap_or_default()
    }

    fn words(self) -> &'static str {
        match self {
            Doing::Other => "reading, saving or evaluating",
            Doing::Working => "computing",
            Doing::Waiting => "waiting for the others",
            Doing::Done => "finished",
        }
    }
}

/// What a rank tells of itself, again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Beat {
    /// Rises with every beat.
    pub(super) number: u64,
    pub(super) doing: Doing,
    /// Rises whenever the training thread gets on.
    pub(super) ticks: u64,
    /// Steps done.
    pub(super) step: u64,
}

impl Beat {
    pub(super) fn to_text(self) -> String {
        format!("{} {} {} {}", self.number, self.doing as u8, self.ticks, self.step)
    }

    pub(super) fn read(text: &[u8]) -> Option<Beat> {
        let text = std::str::from_utf8(text).ok()?;
        let mut numbers = text.split(' ').map(|number| number.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let (number, doing, ticks, step) = (next()?, next()?, next()?, next()?);
        Some(Beat { number, doing: Doing::of(u8::try_from(doing).ok()?), ticks, step })
    }
}

/// How long a rank may be silent. A rank whose training thread stands still although its heart beats gets
/// [`LENIENCE`] times its longest tick so far, if that is more.
const LENIENCE: u32 = 10;

/// While all wait for each other, nobody is late by himself; this many times the patience, and it is a deadlock.
const DEADLOCK: u32 = 10;

/// What is known of one rank.
#[derive(Clone, Copy, Debug)]
struct Seen {
    beat: Beat,
    /// When its beat last changed.
    alive: Duration,
    /// When it last ticked, or began to do something else.
    ticked: Duration,
    /// The longest time between two ticks of its work.
    longest: Duration,
}

/// One rank's view of the others. Rank 0 looks at all of them and the others at rank 0 alone, whose word they have, so that what
/// the store is asked grows with the number of ranks and not with its square.
#[derive(Debug)]
pub(super) struct Judge {
    own: usize,
    hosts: Vec<String>,
    patience: Duration,
    seen: Vec<Seen>,
    looked: Duration,
}

impl Judge {
    /// A judge on rank `own` of as many ranks as there are `hosts`, from `now` on.
    pub(super) fn new(own: usize, hosts: Vec<String>, patience: Duration, now: Duration) -> Judge {
        let fresh = Seen { beat: Beat::default(), alive: now, ticked: now, longest: Duration::ZERO };
        Judge { own, seen: vec![fresh; hosts.len()], hosts, patience, looked: now }
    }

    /// Looks at all beats, and says who is to blame if the job should end. `trouble` is the patience once somebody has met an
    /// error in an exchange.
    pub(super) fn look(
        &mut self,
        now: Duration,
        beats: &[Beat],
        trouble: Option<Duration>,
    ) -> Option<String> {
        let patience = trouble.unwrap_or(self.patience).min(self.patience);
        // This process itself has not run for a while, as when the whole job is suspended: nothing can be said about others.
        if now - self.looked > patience / 2 {
            for seen in &mut self.seen {
                (seen.alive, seen.ticked) = (now, now);
            }
        }
        self.looked = now;
        for (seen, beat) in self.seen.iter_mut().zip(beats) {
            if beat.number != seen.beat.number {
                seen.alive = now;
            }
            if beat.ticks != seen.beat.ticks || beat.doing != seen.beat.doing {
                if beat.doing == Doing::Working && seen.beat.doing == Doing::Working {
                    seen.longest = seen.longest.max(now - seen.ticked);
                }
                seen.ticked = now;
            }
            seen.beat = *beat;
        }
        let others = self.watched().filter(|rank| *rank != self.own);
        let silent = others.clone().find(|rank| {
            let seen = &self.seen[*rank];
            seen.beat.doing != Doing::Done && now - seen.alive > patience
        });
        if let Some(rank) = silent {
            let since = (now - self.seen[rank].alive).as_secs();
            return Some(format!(
                "{} has not been heard of for {since} s; {}",
                self.name(rank),
                self.account(rank)
            ));
        }
        let late = others.clone().find(|rank| {
            let seen = &self.seen[*rank];
            let allowed = self.patience.max(seen.longest * LENIENCE);
            seen.beat.doing == Doing::Working && seen.longest > Duration::ZERO && now - seen.ticked > allowed
        });
        if let Some(rank) = late {
            let since = (now - self.seen[rank].ticked).as_secs();
            return Some(format!(
                "{} has stood still for {since} s; {}",
                self.name(rank),
                self.account(rank)
            ));
        }
        let stuck = |seen: &Seen| {
            seen.beat.doing == Doing::Waiting
                && now - seen.ticked > (self.patience * DEADLOCK).max(seen.longest * LENIENCE)
        };
        (self.own == 0 && self.seen.len() > 1 && self.seen.iter().all(stuck)).then(|| {
            let steps: Vec<String> = self.seen.iter().map(|seen| seen.beat.step.to_string()).collect();
            format!("all ranks wait for each other; they have done {} steps", steps.join(", "))
        })
    }

    /// The ranks whose beats are looked at.
    pub(super) fn watched(&self) -> std::ops::Range<usize> {
        0..if self.own == 0 { self.hosts.len() } else { 1 }
    }

    /// `rank 2 (gpu03)`.
    pub(super) fn name(&self, rank: usize) -> String {
        format!("rank {rank} ({})", self.hosts[rank])
    }

    fn account(&self, rank: usize) -> String {
        let Beat { doing, step, .. } = self.seen[rank].beat;
        format!("after step {step} it was {}", doing.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Rank 0's view of three ranks, second by second; `beat` is what each tells of itself.
    fn verdict(seconds: u64, beat: impl Fn(usize, u64) -> Beat) -> Option<(u64, String)> {
        watch(0..=seconds, None, beat)
    }

    fn watch(
        seconds: impl Iterator<Item = u64>,
        trouble: Option<u64>,
        beat: impl Fn(usize, u64) -> Beat,
    ) -> Option<(u64, String)> {
        let hosts = ["a", "b", "c"].map(str::to_owned).to_vec();
        let mut judge = Judge::new(0, hosts, PATIENCE, Duration::ZERO);
        seconds.into_iter().find_map(|second| {
            let beats = [0, 1, 2].map(|rank| beat(rank, second));
            let trouble = trouble.map(Duration::from_secs);
            Some((second, judge.look(Duration::from_secs(second), &beats, trouble)?))
        })
    }

    fn working(second: u64) -> Beat {
        Beat { number: second, doing: Doing::Working, ticks: second / 2, step: second / 4 }
    }

    #[test]
    fn beats_read_back_as_themselves() {
        let beat = working(1234);
        assert_eq!(Beat::read(beat.to_text().as_bytes()), Some(beat));
        assert_eq!(Beat::read(b"1 2"), None);
    }

    #[test]
    fn a_silent_rank_is_named() {
        let (at, text) = verdict(500, |rank, s| working(if rank == 2 { s.min(100) } else { s })).unwrap();
        assert_eq!(at, 131);
        assert_eq!(text, "rank 2 (c) has not been heard of for 31 s; after step 25 it was computing");
        // Sooner, once somebody has met an error.
        let dead = |rank, s: u64| working(if rank == 1 { s.min(100) } else { s });
        assert_eq!(watch(0..=500, Some(5), dead).unwrap().0, 106);
        assert_eq!(verdict(500, |_, s| working(s)), None);
    }

    #[test]
    fn a_rank_that_stands_still_with_a_beating_heart_is_named() {
        let (at, text) = verdict(500, |rank, s| match rank {
            1 => Beat { number: s, ..working(s.min(100)) },
            // The others wait for it, which is no fault.
            _ if s > 103 => Beat { number: s, doing: Doing::Waiting, ..working(103) },
            _ => working(s),
        })
        .unwrap();
        assert_eq!((at, text.split(" for ").next()), (131, Some("rank 1 (b) has stood still")));
        // A rank whose ticks take 20 s may take 200.
        let slow = |s: u64| Beat { ticks: s / 20, ..working(s) };
        let (at, _) =
            verdict(900, |rank, s| if rank == 1 { Beat { number: s, ..slow(s.min(100)) } } else { slow(s) })
                .unwrap();
        assert_eq!(at, 301);
    }

    #[test]
    fn what_may_take_long_may_take_long() {
        let saving = |rank, s| Beat {
            number: s,
            doing: if rank == 0 { Doing::Waiting } else { Doing::Other },
            ..working(9)
        };
        assert_eq!(verdict(5000, saving), None);
        let left = |rank, s: u64| match rank {
            2 => Beat { doing: Doing::Done, ..working(s.min(100)) },
            _ => working(s),
        };
        assert_eq!(verdict(500, left), None);
    }

    #[test]
    fn ranks_other_than_0_look_at_rank_0() {
        let hosts = ["a", "b", "c"].map(str::to_owned).to_vec();
        let mut judge = Judge::new(1, hosts, PATIENCE, Duration::ZERO);
        assert_eq!(judge.watched(), 0..1);
        let mut look = |second, rank_0: u64| {
            judge.look(
                Duration::from_secs(second),
                &[working(rank_0), Beat::default(), Beat::default()],
                None,
            )
        };
        assert!(
            (0..=100).all(|second| look(second, second).is_none()),
            "the silence of rank 2 is rank 0's affair"
        );
        let verdict = (101..200).find_map(|second| look(second, 100)).unwrap();
        assert_eq!(verdict, "rank 0 (a) has not been heard of for 31 s; after step 25 it was computing");
    }

    #[test]
    fn ranks_that_all_wait_are_a_deadlock() {
        let waiting = |_, s| Beat { number: s, doing: Doing::Waiting, ..working(9) };
        let (at, text) = verdict(5000, waiting).unwrap();
        assert_eq!((at, text.as_str()), (301, "all ranks wait for each other; they have done 2, 2, 2 steps"));
    }

    #[test]
    fn a_job_that_was_suspended_as_a_whole_goes_on() {
        let seconds = (0..100).chain(4000..4100);
        assert_eq!(watch(seconds, None, |_, s| working(s)), None);
        // A rank that was told nothing new right after waking up is given time.
        let seconds = (0..100).chain(4000..4020);
        assert_eq!(watch(seconds, None, |rank, s| working(if rank == 1 { s.min(99) } else { s })), None);
    }
}
