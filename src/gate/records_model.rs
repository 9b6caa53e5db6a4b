//! Checks the lifetime of records with `loom`: all interleavings of a few threads. `make model` runs this.
//!
//! A cell also says which interpreter has the record. A thread that has claimed the record writes the cell, and a
//! thread that has a view or a guard reads it. `loom` reports a read that comes neither before nor after a write.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::Registry;
use crate::gate::fence;
use crate::gate::gate::{close_together, Claim, Lobby};
use crate::gate::record::{Address, Record};
use crate::gate::tally::Tally;
use crate::support::sync::{lock, Mutex};

/// The addresses of two interpreters. The first one is alive in the beginning.
const FIRST: usize = 0x100;
const SECOND: usize = 0x200;

fn address(interpreter: usize) -> Address {
    interpreter as Address
}

struct House {
    registry: Mutex<Registry>,
    lobby: Lobby,
    /// The first interpreter's record.
    record: &'static Record,
    /// The interpreter that has `record`.
    tenant: UnsafeCell<usize>,
}

impl House {
    fn new() -> Arc<House> {
        let main = Box::leak(Box::new(Record::new(true)));
        let mut registry = Registry::new(main);
        let record = registry.claim(address(FIRST), 1).unwrap();
        Arc::new(House {
            registry: Mutex::new(registry),
            lobby: Lobby::new(),
            record,
            tenant: UnsafeCell::new(FIRST),
        })
    }

    /// Checks what a view or a guard of `interpreter` relies on.
    fn rely_on(&self, interpreter: usize) {
        // SAFETY: loom checks that this does not race with the write in `settle`.
        let tenant = self.tenant.with(|tenant| unsafe { *tenant });
        assert_eq!(tenant, interpreter, "the record became another interpreter's");
    }

    fn close_view(&self) {
        self.rely_on(FIRST);
        assert!(lock(&self.registry).drop_view(self.record));
    }

    /// Ends the interpreter as finalization does. The end is unguarded: nothing waits for guards.
    fn end_unguarded(&self) {
        lock(&self.registry).bury(self.record);
    }

    fn end(&self) {
        let gate = &self.record.gate;
        loop {
            gate.drain(true);
            let seat = self.lobby.enter();
            // These are guards of the gate's own count. `gate_model.rs` checks tallies.
            if close_together(std::iter::once(gate), || false, true, &seat) {
                break;
            }
            if gate.guards() != 0 {
                drop(self.lobby.wait(seat, None));
            }
        }
        self.end_unguarded();
    }

    /// Makes the second interpreter. Returns whether it got the record of the first one.
    fn settle(&self) -> bool {
        let mut registry = lock(&self.registry);
        let claimed = registry.claim(address(SECOND), 2).unwrap();
        let same = std::ptr::eq(claimed, self.record);
        if same {
            // SAFETY: loom checks that no thread reads at the same time.
            self.tenant.with_mut(|tenant| unsafe { *tenant = SECOND });
        }
        same
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for record in lock(&self.registry).everything() {
            // SAFETY: `new` or the registry leaked the record, and nothing but this house still knows it.
            drop(unsafe { Box::from_raw(std::ptr::from_ref(record).cast_mut()) });
        }
    }
}

fn spawn<T: 'static>(
    house: &Arc<House>,
    act: impl FnOnce(&House) -> T + 'static,
) -> thread::JoinHandle<T> {
    let house = house.clone();
    thread::spawn(move || act(&house))
}

#[test]
fn whoever_goes_last_gives_the_record_up_once() {
    loom::model(|| {
        let house = House::new();
        house.record.add_view();
        house.record.add_view();
        let life = house.record.life();
        let viewers = [(); 2].map(|()| spawn(&house, House::close_view));
        house.end_unguarded();
        let early = house.settle();
        for viewer in viewers {
            viewer.join().unwrap();
        }
        if !early {
            assert!(house.settle(), "the record is lost");
        }
        assert_eq!(house.record.life(), life + 1);
        assert!(!house.settle(), "the record is two interpreters'");
        assert!(!lock(&house.registry).drop_view(house.record), "there is no view left");
    });
}

#[test]
fn a_view_is_promoted_to_its_own_interpreter_or_not_at_all() {
    loom::model(|| {
        let house = House::new();
        house.record.add_view();
        let viewer = spawn(&house, |house| {
            if house.record.gate.enter(Claim::View, &house.lobby) {
                house.rely_on(FIRST);
                assert_eq!(house.record.address(), address(FIRST), "ended under a guard");
                assert!(house.record.gate.leave(&house.lobby).is_ok());
            }
            house.close_view();
        });
        let newcomer = spawn(&house, House::settle);
        house.end();
        let early = newcomer.join().unwrap();
        viewer.join().unwrap();
        assert!(!early || house.record.gate.enter(Claim::View, &house.lobby), "born refused");
        assert!(early || house.settle(), "the record is lost");
    });
}

#[test]
fn an_address_leads_to_its_own_interpreter_or_nowhere() {
    loom::model(|| {
        let house = House::new();
        let finder = spawn(&house, |house| {
            let Some(record) = lock(&house.registry).find(address(FIRST)) else { return };
            if record.gate.enter(Claim::View, &house.lobby)
                && record.confirm(address(FIRST), &house.lobby)
            {
                house.rely_on(FIRST);
                assert!(record.gate.leave(&house.lobby).is_ok());
            }
        });
        let newcomer = spawn(&house, House::settle);
        house.end();
        newcomer.join().unwrap();
        finder.join().unwrap();
        assert_eq!(house.record.gate.guards(), 0);
    });
}

#[test]
fn a_guard_of_an_unguarded_end_is_not_missed_by_the_next_interpreter() {
    loom::model(|| {
        let house = House::new();
        house.record.add_view();
        assert!(house.record.gate.enter(Claim::View, &house.lobby));
        let life = house.record.life();
        let holder = spawn(&house, move |house| {
            // `Hold::give_back` does the same.
            if house.record.life() == life {
                assert!(house.record.gate.leave(&house.lobby).is_ok());
            }
        });
        let viewer = spawn(&house, House::close_view);
        house.end_unguarded();
        assert!(!house.record.gate.enter(Claim::View, &house.lobby), "a guard of nothing");
        if house.settle() {
            assert!(house.record.gate.enter(Claim::View, &house.lobby));
            holder.join().unwrap();
            assert_eq!(house.record.gate.guards(), 1);
        } else {
            holder.join().unwrap();
        }
        viewer.join().unwrap();
    });
}

#[test]
fn a_ticket_of_an_interpreter_that_is_gone_is_told_by_the_life() {
    loom::model(|| {
        let house = House::new();
        let ticket = house.record.ticket() as usize;
        house.record.add_view();
        let newcomer = spawn(&house, House::settle);
        let viewer = spawn(&house, House::close_view);
        house.end_unguarded();
        // The interpreter's death may be reported once more.
        let mut registry = lock(&house.registry);
        // SAFETY: `ticket` is a ticket of this house's record.
        if let Some(record) = unsafe { Record::of_ticket(ticket as *mut _) } {
            registry.bury(record);
        }
        drop(registry);
        let early = newcomer.join().unwrap();
        viewer.join().unwrap();
        // SAFETY: `ticket` is a ticket of this house, whose records live as long as the house.
        assert!(unsafe { Record::of_ticket(ticket as *mut _) }.is_none(), "dead, and not told");
        if early {
            assert_eq!(house.record.address(), address(SECOND), "the next one was buried");
        }
    });
}

#[test]
fn the_next_run_of_the_runtime_waits_for_holds_of_its_own() {
    loom::model(|| {
        let house = House::new();
        let main: &'static Record = lock(&house.registry).main;
        lock(&house.registry).reopen_main(address(FIRST));
        let tally: Arc<Tally> = Arc::new(Tally::new());
        let viewer = spawn(&house, {
            let tally = tally.clone();
            move |house| {
                if main.enter_by(&tally, &house.lobby) {
                    let run = main.address();
                    // The cell stands for what the thread attaches to. `loom` reports an end that does not come
                    // after this.
                    house.tenant.with(|_| assert!(!run.is_null(), "held, and gone"));
                    main.gate.leave_by(&tally, &house.lobby);
                }
            }
        });
        for next in [Some(SECOND), None] {
            loop {
                let seat = house.lobby.enter();
                main.gate.drain(true);
                fence::heavy();
                let tallied = || tally.of(main.owner()) != 0;
                if close_together(std::iter::once(&main.gate), tallied, true, &seat) {
                    break;
                }
                drop(house.lobby.wait(seat, None));
            }
            // SAFETY: loom checks that no thread holds the interpreter at the same time.
            house.tenant.with_mut(|tenant| unsafe { *tenant = SECOND });
            lock(&house.registry).bury(main);
            if let Some(next) = next {
                lock(&house.registry).reopen_main(address(next));
            }
        }
        viewer.join().unwrap();
    });
}
