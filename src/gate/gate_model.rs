//! Checks the gate with `loom`: all interleavings of a few threads. `make model` runs this.
//!
//! A cell stands for what a guard protects. Guarded threads read the cell, and finalization writes it once it has
//! closed the gate. `loom` reports a read that does not come before the write, and a thread that sleeps without
//! end.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::{close_together, guards_in, Claim, Gate, Lobby};
use crate::gate::fence;
use crate::gate::stripe::Stripe;
use crate::gate::tally::{Owner, Tally};
use crate::support::sync::AtomicUsize;

struct House {
    gates: [Gate; 2],
    lobby: Lobby,
    /// One tally for each thread except the finalizing one.
    tallies: [Tally; 2],
    /// Of the first gate.
    stripes: [Stripe; 2],
    /// What the guards of each gate protect.
    interpreters: [UnsafeCell<bool>; 2],
}

impl House {
    fn new() -> Arc<House> {
        Arc::new(House {
            gates: [Gate::new(), Gate::new()],
            lobby: Lobby::new(),
            tallies: [Tally::new(), Tally::new()],
            stripes: [Stripe::new(), Stripe::new()],
            interpreters: [UnsafeCell::new(true), UnsafeCell::new(true)],
        })
    }

    fn work(&self, index: usize) {
        // SAFETY: loom checks that this does not race with the write in `finalize`.
        assert!(
            self.interpreters[index].with(|alive| unsafe { *alive }),
            "worked on after its end"
        );
    }

    fn enter(&self, index: usize, claim: Claim) -> bool {
        self.gates[index].enter(claim, &self.lobby)
    }

    fn leave(&self, index: usize) {
        assert!(self.gates[index].leave(&self.lobby).is_ok());
    }

    /// Takes a hold for this thread: in its tally, or else on the gate.
    fn hold(&self, index: usize, thread: usize) -> Option<Hold> {
        let (gate, tally) = (&self.gates[index], &self.tallies[thread]);
        if gate.enter_by(tally, owner(index), &self.lobby) {
            Some(Hold::Tallied)
        } else {
            gate.enter(Claim::View, &self.lobby).then_some(Hold::OnTheGate)
        }
    }

    fn give_back(&self, index: usize, thread: usize, hold: Hold) {
        match hold {
            Hold::Tallied => self.gates[index].leave_by(&self.tallies[thread], &self.lobby),
            Hold::OnTheGate => self.leave(index),
        }
    }

    fn tallied(&self, index: usize) -> bool {
        let on_stripes = self.stripes.iter().any(|stripe| guards_in(&stripe.word) != 0);
        index == 0 && on_stripes || self.tallies.iter().any(|tally| tally.of(owner(index)) != 0)
    }

    /// A guard of the first gate, on a stripe or on the gate. `None`: refused.
    fn guard(&self, stripe: usize) -> Option<&AtomicUsize> {
        let count = &self.stripes[stripe].word;
        if self.gates[0].enter_at(count, &self.lobby) {
            Some(count)
        } else {
            self.enter(0, Claim::View).then(|| self.gates[0].word())
        }
    }

    /// Waits as `exit/wait.rs` does, and ends what the gates protect.
    fn finalize(&self, indices: &[usize], honour_views: bool) {
        let gates = indices.iter().map(|index| &self.gates[*index]);
        let tallied = || indices.iter().any(|index| self.tallied(*index));
        loop {
            let seat = self.lobby.enter();
            gates.clone().for_each(|gate| gate.drain(honour_views));
            fence::heavy();
            if gates.clone().any(|gate| gate.guards() != 0) || tallied() {
                drop(self.lobby.wait(seat, None));
                continue;
            }
            drop(seat);
            let seat = self.lobby.enter();
            if close_together(gates.clone(), tallied, honour_views, &seat) {
                break;
            }
        }
        for index in indices {
            // SAFETY: loom checks that no guarded thread reads at the same time.
            self.interpreters[*index].with_mut(|alive| unsafe { *alive = false });
        }
    }
}

#[derive(Clone, Copy)]
enum Hold {
    Tallied,
    OnTheGate,
}

fn owner(index: usize) -> Owner {
    Owner::new((index + 1) * 1024, 0)
}

/// Makes an Ensure through a view. Returns whether it got in.
fn ensure(house: &House, index: usize, thread: usize) -> bool {
    let hold = house.hold(index, thread);
    if let Some(hold) = hold {
        house.work(index);
        house.give_back(index, thread, hold);
    }
    hold.is_some()
}

/// Makes one callback through a view. Returns whether it got in.
fn call(house: &House, index: usize) -> bool {
    let entered = house.enter(index, Claim::View);
    if entered {
        house.work(index);
        house.leave(index);
    }
    entered
}

#[test]
fn two_callbacks_and_an_exit() {
    loom::model(|| {
        let house = House::new();
        let threads = [0, 1].map(|_| {
            let house = house.clone();
            thread::spawn(move || {
                if !call(&house, 0) {
                    assert!(!call(&house, 0), "refused, and then not");
                }
            })
        });
        house.finalize(&[0], true);
        assert!(!house.enter(0, Claim::View) && !house.enter(0, Claim::Holder));
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn two_ensures_and_an_exit() {
    loom::model(|| {
        let house = House::new();
        let threads = [0, 1].map(|thread| {
            let house = house.clone();
            thread::spawn(move || {
                if !ensure(&house, 0, thread) {
                    assert!(!ensure(&house, 0, thread), "refused, and then not");
                }
            })
        });
        house.finalize(&[0], false);
        assert!(!house.enter(0, Claim::View));
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn guards_on_stripes_and_an_exit() {
    for stripes in [[0, 1], [0, 0]] {
        loom::model(move || {
            let house = House::new();
            let threads = stripes.map(|stripe| {
                let house = house.clone();
                thread::spawn(move || {
                    if let Some(count) = house.guard(stripe) {
                        house.work(0);
                        assert!(house.gates[0].leave_at(count, &house.lobby).is_ok());
                    } else {
                        assert!(house.guard(stripe).is_none(), "refused, and then not");
                    }
                })
            });
            house.finalize(&[0], true);
            assert!(house.guard(0).is_none());
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }
}

#[test]
fn a_guard_on_a_stripe_that_another_thread_closes() {
    loom::model(|| {
        let house = House::new();
        assert!(house.gates[0].enter_at(&house.stripes[0].word, &house.lobby));
        let taker = thread::spawn({
            let house = house.clone();
            move || house.guard(1).is_some()
        });
        let closer = thread::spawn({
            let house = house.clone();
            move || {
                let taken = taker.join().unwrap();
                house.work(0);
                let gate = &house.gates[0];
                // What the first thread could not take on the stripe it took on the gate.
                let on_stripe = gate.leave_at(&house.stripes[1].word, &house.lobby).is_ok();
                assert!(!taken || on_stripe || gate.leave_at(gate.word(), &house.lobby).is_ok());
                assert!(gate.leave_at(&house.stripes[0].word, &house.lobby).is_ok());
            }
        });
        house.finalize(&[0], true);
        closer.join().unwrap();
    });
}

#[test]
fn a_guard_on_a_stripe_is_of_one_run_of_python() {
    loom::model(|| {
        let house = House::new();
        let thread = thread::spawn({
            let house = house.clone();
            move || {
                let (gate, count) = (&house.gates[0], &house.stripes[0].word);
                if gate.enter_at(count, &house.lobby) {
                    assert!(gate.leave_at(count, &house.lobby).is_ok(), "taken, and not counted");
                }
            }
        });
        house.finalize(&[0], true);
        // The next run has the record.
        house.stripes[0].begin(1);
        house.gates[0].reopen();
        thread.join().unwrap();
        assert!(guards_in(&house.stripes[0].word) == 0, "counted, and not taken");
    });
}

#[test]
fn a_guard_on_a_stripe_closed_twice_at_once_is_seen() {
    loom::model(|| {
        let house = House::new();
        assert!(house.gates[0].enter_at(&house.stripes[0].word, &house.lobby));
        let close = |house: &House| house.gates[0].leave_at(&house.stripes[0].word, &house.lobby);
        let other = thread::spawn({
            let house = house.clone();
            move || close(&house).is_ok()
        });
        let own = close(&house).is_ok();
        assert!(own != other.join().unwrap(), "one of the two is told");
    });
}

#[test]
fn an_ensure_that_takes_a_guard_for_another_thread() {
    loom::model(|| {
        let house = House::new();
        let hold = house.hold(0, 0).unwrap();
        let holder = thread::spawn({
            let house = house.clone();
            move || {
                assert!(house.enter(0, Claim::Holder), "a holder is never refused");
                let other = thread::spawn({
                    let house = house.clone();
                    move || {
                        house.work(0);
                        house.leave(0);
                    }
                });
                house.give_back(0, 0, hold);
                other.join().unwrap();
            }
        });
        house.finalize(&[0, 1], false);
        holder.join().unwrap();
    });
}

#[test]
fn an_ensure_in_each_of_two_interpreters() {
    loom::model(|| {
        let house = House::new();
        let threads = [0, 1].map(|index| {
            let house = house.clone();
            thread::spawn(move || ensure(&house, index, index))
        });
        house.finalize(&[0, 1], true);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn an_interpreter_that_came_while_the_exit_waited() {
    loom::model(|| {
        let house = House::new();
        let thread = thread::spawn({
            let house = house.clone();
            move || ensure(&house, 1, 0)
        });
        // The gate of the interpreter that came is not told of the exit before it is closed.
        loop {
            let seat = house.lobby.enter();
            if close_together(house.gates.iter(), || house.tallied(1), false, &seat) {
                break;
            }
            drop(house.lobby.wait(seat, None));
        }
        // SAFETY: loom checks that no guarded thread reads at the same time, as in `finalize`.
        house.interpreters[1].with_mut(|alive| unsafe { *alive = false });
        thread.join().unwrap();
    });
}

#[test]
fn a_holder_takes_more_when_views_are_refused() {
    loom::model(|| {
        let house = House::new();
        assert!(house.enter(0, Claim::View));
        let holder = thread::spawn({
            let house = house.clone();
            move || {
                assert!(house.enter(0, Claim::Holder), "a holder is never refused");
                house.leave(0);
                house.work(0);
                house.leave(0);
            }
        });
        let knocker = thread::spawn({
            let house = house.clone();
            move || call(&house, 0)
        });
        house.finalize(&[0], false);
        holder.join().unwrap();
        knocker.join().unwrap();
    });
}

#[test]
fn an_exit_that_covers_two_interpreters() {
    loom::model(|| {
        let house = House::new();
        // A thread that works in one interpreter makes work in the other, so neither gate may close before both
        // can. The exit looks at the gate without guards first.
        assert!(house.enter(1, Claim::View));
        let worker = thread::spawn({
            let house = house.clone();
            move || {
                assert!(call(&house, 0), "refused on account of an attempt to close");
                house.work(1);
                house.leave(1);
            }
        });
        house.finalize(&[0, 1], true);
        worker.join().unwrap();
        assert!(!house.enter(1, Claim::Holder));
    });
}

#[test]
fn two_exits_at_once() {
    loom::model(|| {
        let house = House::new();
        assert!(house.enter(1, Claim::View));
        // A subinterpreter ends while the main interpreter, which covers it, finalizes.
        let sub = thread::spawn({
            let house = house.clone();
            move || {
                let seat = house.lobby.enter();
                house.gates[1].drain(true);
                close_together([&house.gates[1]].into_iter(), || house.tallied(1), true, &seat)
            }
        });
        let worker = thread::spawn({
            let house = house.clone();
            move || {
                house.work(1);
                house.leave(1);
            }
        });
        house.finalize(&[0, 1], true);
        sub.join().unwrap();
        worker.join().unwrap();
    });
}

#[test]
fn a_guard_given_back_twice_is_seen() {
    loom::model(|| {
        let house = House::new();
        assert!(house.enter(0, Claim::View));
        house.leave(0);
        assert!(house.gates[0].leave(&house.lobby).is_err());
        assert!(house.enter(0, Claim::View), "the gate is as it was");
    });
}
