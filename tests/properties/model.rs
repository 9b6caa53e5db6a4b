//! What the library must do, in plain structures: who holds what, what is attached where. It makes a
//! script of legal commands out of random ones, and says what each must print.
//!
//! Legal is what the contract allows, besides a few limits of CPython's own: subinterpreters are gone
//! before the main interpreter ends, and a thread has nothing attached to an interpreter that has ended
//! but what a hold covers.

use proptest::prelude::*;

pub const ACTORS: usize = 3;
const DEEPEST: usize = 12;

/// A random command. What it cannot mean, given what was before, is left out; `pick` chooses among
/// what it can be about.
#[derive(Clone, Debug)]
pub struct Wish {
    actor: usize,
    kind: Kind,
    pick: usize,
}

macro_rules! kinds {
    ($($name:ident $weight:literal),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq)]
        enum Kind { $($name),* }

        fn kind() -> impl Strategy<Value = Kind> {
            let weighted = vec![$(($weight, Just(Kind::$name).boxed())),*];
            proptest::strategy::Union::new_weighted(weighted)
        }
    };
}

kinds! {
    Guard 3, View 3, ViewMain 2, Ref 3, Weak 3,
    GuardView 3, WeakStrong 3, RefMain 2, AsStrong 2, AsInterpreter 1, Dup 2, WeakDup 1,
    Close 5,
    Ensure 4, EnsureView 8, DraftEnsure 5, EnsureStealing 3,
    Undo 14, Save 6, Gil 5, Swap 3,
    GetDaemon 5, SetDaemon 3, SetNonDaemon 4,
    SubNew 3, SubEnd 4, Finalize 4, Init 12,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub wishes: Vec<Wish>,
    /// Whether an exit honours views as long as it waits, or from the start not.
    pub honours_views: bool,
}

pub fn case() -> impl Strategy<Value = Case> {
    let wish = (0..ACTORS, kind(), any::<prop::sample::Index>());
    let wish = wish.prop_map(|(actor, kind, pick)| Wish { actor, kind, pick: pick.index(1 << 16) });
    (prop::collection::vec(wish, 0..200), any::<bool>())
        .prop_map(|(wishes, honours_views)| Case { wishes, honours_views })
}

/// One line of the script, and what must come of it.
pub struct Step {
    pub line: String,
    pub expected: Expected,
}

pub struct Expected {
    pub result: String,
    /// The thread state attached afterwards: a name of the model's, and its interpreter's number.
    pub attached: Option<(usize, u64)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Sort {
    Guard,
    View,
    Strong,
    Weak,
}

#[derive(Clone)]
struct Handle {
    sort: Sort,
    interpreter: usize,
    open: bool,
}

#[derive(Clone)]
struct Interpreter {
    /// CPython's.
    number: u64,
    alive: bool,
    /// The library was used in it by a thread attached to it.
    used: bool,
    /// Guards, references, Ensures and thread states that keep it.
    holds: usize,
    /// Its own thread state.
    state: usize,
}

/// A thread state.
#[derive(Clone)]
struct State {
    interpreter: usize,
    made_by: Maker,
    /// `SetDaemon(0)` outside an Ensure.
    holds: bool,
    /// `PyGILState_Ensure`s that are yet to be released.
    gilstates: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Maker {
    Interpreter,
    Ensure,
    Gilstate,
}

#[derive(Clone)]
enum Frame {
    Level(Level),
    Saved(usize),
    Swapped(usize),
    Gilstate { was_attached: bool },
}

#[derive(Clone)]
struct Level {
    state: usize,
    way: Way,
    holds: bool,
    draft: bool,
    /// By `SetDaemon(1)` in this level: frames around it, and the thread state's own hold.
    dropped: Vec<usize>,
    dropped_own: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Reused,
    Reattached,
    Created { outer: Option<usize>, usual: Option<usize> },
}

#[derive(Clone, Default)]
struct Thread {
    attached: Option<usize>,
    /// What `PyGILState` takes for the thread's own.
    usual: Option<usize>,
    frames: Vec<Frame>,
}

#[derive(Clone)]
pub struct Model {
    version: u32,
    honours_views: bool,
    /// The main interpreter is the first.
    interpreters: Vec<Interpreter>,
    states: Vec<State>,
    handles: Vec<Handle>,
    threads: [Thread; ACTORS],
    next_number: u64,
    /// The interpreter whose end waits, in the main thread.
    ending: Option<usize>,
    /// What the library refuses after the wait is asked for in this run.
    asks: bool,
}

type Answer = Option<(String, String)>;

fn answer(line: impl Into<String>, result: impl Into<String>) -> Answer {
    Some((line.into(), result.into()))
}

fn handle_or_null(given: bool) -> &'static str {
    if given {
        "ok"
    } else {
        "null"
    }
}

fn status(given: bool) -> &'static str {
    if given {
        "0,ok"
    } else {
        "-1,null"
    }
}

impl Model {
    /// The script for a case under a Python of that `hexversion`.
    pub fn script(case: &Case, version: u32) -> Vec<Step> {
        let main = Interpreter { number: 0, alive: false, used: false, holds: 0, state: 0 };
        let mut model = Model {
            version,
            honours_views: case.honours_views,
            interpreters: vec![main],
            states: Vec::new(),
            handles: Vec::new(),
            threads: Default::default(),
            next_number: 0,
            ending: None,
            asks: false,
        };
        let mut steps = Vec::new();
        for wish in &case.wishes {
            model.grant(wish, &mut steps);
        }
        model.conclude(&mut steps);
        steps
    }

    /// Undoes everything, ends everything, and asks once more.
    fn conclude(&mut self, steps: &mut Vec<Step>) {
        let mut wish = |model: &mut Model, actor, kind, pick| {
            model.grant(&Wish { actor, kind, pick }, steps);
        };
        for actor in (0..ACTORS).rev() {
            while !(self.threads[actor].frames.is_empty() || actor == 0 && self.ending.is_some()) {
                wish(self, actor, Kind::Undo, 0);
            }
        }
        let strong = |handle: &Handle| matches!(handle.sort, Sort::Guard | Sort::Strong);
        while let Some(first) = self.open(strong).first() {
            let pick = self.open(|_| true).iter().position(|handle| handle == first).unwrap();
            wish(self, 1, Kind::Close, pick);
        }
        while !self.subs().is_empty() {
            wish(self, 0, Kind::SubEnd, 0);
        }
        wish(self, 0, Kind::Finalize, 0);
        for index in 0..self.open(|h| h.sort == Sort::View).len() {
            wish(self, 1, Kind::EnsureView, index);
        }
        for index in 0..self.open(|h| h.sort == Sort::Weak).len() {
            wish(self, 2, Kind::WeakStrong, index);
        }
        while self.handles.iter().any(|handle| handle.open) {
            wish(self, 2, Kind::Close, 0);
        }
    }

    /// Carries the wish out, if it is legal.
    fn grant(&mut self, wish: &Wish, steps: &mut Vec<Step>) {
        let main_only = [Kind::Init, Kind::Finalize, Kind::SubNew, Kind::SubEnd, Kind::Swap];
        let actor = if main_only.contains(&wish.kind) { 0 } else { wish.actor };
        // What would mostly be out of the question is come nearer to.
        let kind = match wish.kind {
            Kind::Finalize | Kind::SubEnd if !self.threads[0].frames.is_empty() => Kind::Undo,
            Kind::Finalize if !self.subs().is_empty() => Kind::SubEnd,
            kind => kind,
        };
        let wish = &Wish { actor, kind, pick: wish.pick };
        if wish.actor == 0 && self.ending.is_some() {
            return;
        }
        let mut after = self.clone();
        let Some((line, result)) = after.attempt(wish) else { return };
        if !after.is_sound() {
            return;
        }
        let goes_on = after.ending.is_some_and(|ending| after.interpreters[ending].holds == 0);
        let begins = self.ending.is_none() && after.ending.is_some();
        let attached = after.attached(wish.actor);
        let (expected, line) = if begins {
            (Expected { result: "begun".into(), attached: None }, line)
        } else if goes_on {
            let (name, rest) = line.split_once(' ').unwrap_or((&line, ""));
            (Expected { result, attached: None }, format!("{name}. {rest}"))
        } else {
            (Expected { result, attached }, line)
        };
        steps.push(Step { line: format!("{} {line}", wish.actor), expected });
        *self = after;
        if goes_on {
            let result = self.end();
            let attached = self.attached(0);
            let expected = Expected { result, attached };
            steps.push(Step { line: "0 join".into(), expected });
        }
    }

    fn attached(&self, actor: usize) -> Option<(usize, u64)> {
        let state = self.threads[actor].attached?;
        Some((state, self.interpreters[self.states[state].interpreter].number))
    }

    /// No thread is on the ground of an interpreter that ends but by a hold of its own; and when
    /// there is no hold, no thread is.
    fn is_sound(&self) -> bool {
        let Some(ending) = self.ending else { return true };
        let waits = self.interpreters[ending].holds != 0;
        self.threads.iter().skip(1).all(|thread| {
            let of_it = |state: usize| self.states[state].interpreter == ending;
            match thread.frames.iter().find(|frame| frame.state().is_none_or(of_it)) {
                None => thread.attached.is_none_or(|state| !of_it(state)),
                Some(Frame::Level(level)) => waits && level.holds,
                Some(_) => false,
            }
        })
    }

    fn attempt(&mut self, wish: &Wish) -> Answer {
        let Wish { actor, pick, .. } = *wish;
        let attached = self.threads[actor].attached;
        let here = attached.map(|state| self.states[state].interpreter);
        let deep = self.threads[actor].frames.len() >= DEEPEST;
        match wish.kind {
            Kind::Guard => self.of_current("guard", Sort::Guard, here?),
            Kind::Ref => self.of_current("ref", Sort::Strong, here?),
            Kind::View => self.of_current("view", Sort::View, here?),
            Kind::Weak => self.of_current("weak", Sort::Weak, here?),
            Kind::ViewMain => {
                let handle = self.new_handle(Sort::View, 0);
                answer(format!("view_main {handle}"), "ok")
            }
            Kind::GuardView => {
                let view = self.choose(pick, |h| h.sort == Sort::View)?;
                let (given, handle) = self.promote(actor, view, Sort::Guard);
                answer(format!("guard_view {view} {handle}"), handle_or_null(given))
            }
            Kind::WeakStrong => {
                let weak = self.choose(pick, |h| h.sort == Sort::Weak)?;
                let (given, handle) = self.promote(actor, weak, Sort::Strong);
                answer(format!("weak_strong {weak} {handle}"), status(given))
            }
            Kind::RefMain => {
                let given = self.serves(actor, 0);
                let handle = self.take(Sort::Strong, 0, given);
                answer(format!("ref_main {handle}"), status(given))
            }
            Kind::AsStrong => {
                // When all are gone, no other can have the address.
                let all = (0..self.interpreters.len()).collect();
                let of = if self.is_up() { self.live() } else { all };
                let of = of[pick % of.len()];
                // The first use in it: goes there. Another one than the attached is found up to 3.11, by the thread that
                // made its one thread state: the main thread made all of them.
                let finds =
                    here == Some(of) || here.is_some() && actor == 0 && !self.may_have_gils();
                if self.is_up() && of != 0 && finds {
                    self.interpreters[of].used = true;
                }
                let known = of == 0 || self.interpreters[of].used;
                let given = known && self.serves(actor, of);
                if self.states.is_empty() {
                    return None; // There is no address yet.
                }
                let handle = self.take(Sort::Strong, of, given);
                answer(format!("as_strong {of} {handle}"), status(given))
            }
            Kind::AsInterpreter => {
                let strong = self.choose(pick, |h| h.sort == Sort::Strong)?;
                answer(format!("as_interpreter {strong} {}", self.handles[strong].interpreter), "1")
            }
            Kind::Dup => {
                let strong = self.choose(pick, |h| h.sort == Sort::Strong)?;
                let of = self.handles[strong].interpreter;
                let handle = self.take(Sort::Strong, of, true);
                answer(format!("dup {strong} {handle}"), "ok")
            }
            Kind::WeakDup => {
                let weak = self.choose(pick, |h| h.sort == Sort::Weak)?;
                let handle = self.new_handle(Sort::Weak, self.handles[weak].interpreter);
                answer(format!("weak_dup {weak} {handle}"), "ok")
            }
            Kind::Close => {
                let handle = self.choose(pick, |_| true)?;
                let name = match self.close(handle) {
                    Sort::Guard => "guard_close",
                    Sort::View => "view_close",
                    Sort::Strong => "ref_close",
                    Sort::Weak => "weak_close",
                };
                answer(format!("{name} {handle}"), "-")
            }
            _ if deep && wish.kind != Kind::Undo => None,
            Kind::Ensure => {
                let guard = self.choose(pick, |h| h.sort == Sort::Guard)?;
                self.ensure(actor, self.handles[guard].interpreter, false, false);
                answer(format!("ensure {guard}"), "ok")
            }
            Kind::EnsureView => {
                let view = self.choose(pick, |h| h.sort == Sort::View)?;
                let of = self.handles[view].interpreter;
                let given = self.serves(actor, of);
                if given {
                    self.ensure(actor, of, true, false);
                }
                answer(format!("ensure_view {view}"), handle_or_null(given))
            }
            Kind::DraftEnsure => {
                let strong = self.choose(pick, |h| h.sort == Sort::Strong)?;
                self.ensure(actor, self.handles[strong].interpreter, true, true);
                answer(format!("draft_ensure {strong}"), "0")
            }
            Kind::EnsureStealing => {
                let strong = self.choose(pick, |h| h.sort == Sort::Strong)?;
                self.ensure(actor, self.handles[strong].interpreter, true, true);
                self.close(strong);
                answer(format!("ensure_stealing {strong}"), "0")
            }
            Kind::Undo => self.undo(actor),
            Kind::Save => {
                let frame = Frame::Saved(attached?);
                self.threads[actor].attached = None;
                self.threads[actor].frames.push(frame);
                answer("save", "-")
            }
            Kind::Swap => {
                // From anywhere else it is a stranger's thread state to CPython before 3.12.
                let subs = self.subs();
                if !self.threads[0].frames.is_empty() || subs.is_empty() {
                    return None;
                }
                let sub = subs[pick % subs.len()];
                let frame = Frame::Swapped(attached?);
                self.threads[0].frames.push(frame);
                self.attach(0, self.interpreters[sub].state);
                answer(format!("swap {sub}"), "-")
            }
            Kind::Gil => self.gil(actor),
            Kind::GetDaemon => {
                let holds = self.is_main(actor)? || self.is_held(actor);
                answer("get_daemon", if holds { "0" } else { "1" })
            }
            Kind::SetNonDaemon => {
                let main = self.is_main(actor)?;
                if !main && !self.is_held(actor) {
                    self.hold(actor);
                }
                answer("set_daemon 0", if main { "-1" } else { "0" })
            }
            Kind::SetDaemon => {
                let main = self.is_main(actor)?;
                if !main {
                    self.let_go(actor);
                }
                answer("set_daemon 1", if main { "-1" } else { "0" })
            }
            Kind::SubNew => {
                if !self.is_base() || self.interpreters.len() > 5 {
                    return None;
                }
                let slot = self.interpreters.len();
                self.next_number += 1;
                let state = self.new_state(slot, Maker::Interpreter);
                self.interpreters.push(Interpreter {
                    number: self.next_number,
                    alive: true,
                    used: false,
                    holds: 0,
                    state,
                });
                answer(format!("sub_new {slot} {}", pick % 2), "-")
            }
            Kind::SubEnd => {
                let subs = self.subs();
                if !self.is_base() || subs.is_empty() {
                    return None;
                }
                let sub = subs[pick % subs.len()];
                self.begin_end(sub, format!("sub_end {sub}"))
            }
            Kind::Finalize => {
                if !self.is_base() || !self.subs().is_empty() {
                    return None;
                }
                // What waits has used the library.
                self.interpreters[0].used |= self.interpreters[0].holds != 0;
                let asks = self.asks && self.interpreters[0].used;
                self.begin_end(0, format!("finalize {}", u8::from(asks)))
            }
            Kind::Init => {
                if self.is_up() {
                    return None;
                }
                let state = self.new_state(0, Maker::Interpreter);
                self.next_number = 0;
                self.interpreters[0] =
                    Interpreter { number: 0, alive: true, used: false, holds: 0, state };
                self.attach(0, state);
                self.asks = pick % 2 == 0;
                answer(format!("init {}", u8::from(self.asks)), "-")
            }
        }
    }

    // --- Interpreters ----------------------------------------------------------------------------

    fn is_up(&self) -> bool {
        self.interpreters[0].alive
    }

    fn live(&self) -> Vec<usize> {
        (0..self.interpreters.len()).filter(|index| self.interpreters[*index].alive).collect()
    }

    fn subs(&self) -> Vec<usize> {
        self.live().into_iter().filter(|index| *index != 0).collect()
    }

    /// The main thread is where it was after `Py_Initialize`.
    fn is_base(&self) -> bool {
        self.is_up() && self.threads[0].frames.is_empty()
    }

    fn begin_end(&mut self, of: usize, line: String) -> Answer {
        self.ending = Some(of);
        if !self.is_sound() {
            return None;
        }
        if self.interpreters[of].holds != 0 {
            self.interpreters[of].used = true;
            return answer(format!("{line} 1!"), "begun");
        }
        let result = self.end();
        answer(format!("{line} 0"), result)
    }

    /// The end of the interpreter that ends; what the command for it says.
    fn end(&mut self) -> String {
        let of = self.ending.take().unwrap();
        self.interpreters[of].alive = false;
        if of != 0 {
            // The main thread goes back to its own thread state.
            let own = self.interpreters[0].state;
            self.attach(0, own);
            return "-".into();
        }
        self.threads = Default::default();
        let exception =
            if self.version >= 0x030D_0000 { "PythonFinalizationError" } else { "RuntimeError" };
        match self.asks && self.interpreters[0].used {
            true => format!("0,null:{exception},ok,null,null,-1"),
            false => "0,".into(),
        }
    }

    // --- Holds -----------------------------------------------------------------------------------

    /// Whether a thread that has no handle that keeps the interpreter is given one.
    fn serves(&self, actor: usize, of: usize) -> bool {
        let late = self.ending == Some(of) && !self.honours_views;
        self.interpreters[of].alive && (!late || self.is_holder(actor, of))
    }

    fn is_holder(&self, actor: usize, of: usize) -> bool {
        let thread = &self.threads[actor];
        let inside = thread.levels().any(|(_, level)| self.states[level.state].interpreter == of);
        let holds = |state: usize| self.states[state].interpreter == of && self.states[state].holds;
        inside || thread.attached.is_some_and(holds)
    }

    fn new_handle(&mut self, sort: Sort, interpreter: usize) -> usize {
        self.handles.push(Handle { sort, interpreter, open: true });
        self.handles.len() - 1
    }

    fn take(&mut self, sort: Sort, of: usize, given: bool) -> usize {
        let handle = self.new_handle(sort, of);
        self.handles[handle].open = given;
        self.interpreters[of].holds += usize::from(given);
        handle
    }

    fn promote(&mut self, actor: usize, weak: usize, sort: Sort) -> (bool, usize) {
        let of = self.handles[weak].interpreter;
        let given = self.serves(actor, of);
        (given, self.take(sort, of, given))
    }

    fn of_current(&mut self, name: &str, sort: Sort, of: usize) -> Answer {
        self.interpreters[of].used = true;
        let handle = match sort {
            // Whoever is attached while the end waits is a holder: see `is_sound`.
            Sort::Guard | Sort::Strong => self.take(sort, of, true),
            Sort::View | Sort::Weak => self.new_handle(sort, of),
        };
        answer(format!("{name} {handle}"), "ok")
    }

    fn close(&mut self, handle: usize) -> Sort {
        let Handle { sort, interpreter, .. } = self.handles[handle];
        self.handles[handle].open = false;
        if matches!(sort, Sort::Guard | Sort::Strong) {
            self.interpreters[interpreter].holds -= 1;
        }
        sort
    }

    fn open(&self, wanted: impl Fn(&Handle) -> bool) -> Vec<usize> {
        let fits = |index: &usize| self.handles[*index].open && wanted(&self.handles[*index]);
        (0..self.handles.len()).filter(fits).collect()
    }

    fn choose(&self, pick: usize, wanted: impl Fn(&Handle) -> bool) -> Option<usize> {
        let open = self.open(wanted);
        (!open.is_empty()).then(|| open[pick % open.len()])
    }

    // --- Thread states ---------------------------------------------------------------------------

    fn new_state(&mut self, interpreter: usize, made_by: Maker) -> usize {
        self.states.push(State { interpreter, made_by, holds: false, gilstates: 0 });
        self.states.len() - 1
    }

    /// Of their own, from 3.12 on.
    fn may_have_gils(&self) -> bool {
        self.version >= 0x030C_0000
    }

    /// From 3.12 on the usual thread state is the one attached last; before, the first one.
    fn usual_is_last(&self) -> bool {
        self.version >= 0x030C_0000
    }

    fn attach(&mut self, actor: usize, state: usize) {
        let last = self.usual_is_last();
        let thread = &mut self.threads[actor];
        thread.attached = Some(state);
        if last || thread.usual.is_none() {
            thread.usual = Some(state);
        }
    }

    /// Clears and deletes what is attached.
    fn delete_attached(&mut self, actor: usize) {
        let thread = &mut self.threads[actor];
        let state = thread.attached.take().unwrap();
        if thread.usual == Some(state) {
            thread.usual = None;
        }
        if std::mem::take(&mut self.states[state].holds) {
            self.interpreters[self.states[state].interpreter].holds -= 1;
        }
    }

    fn ensure(&mut self, actor: usize, of: usize, holds: bool, draft: bool) {
        let Thread { attached, usual, .. } = self.threads[actor];
        let fits = |state: Option<usize>| state.filter(|s| self.states[*s].interpreter == of);
        let reattached = fits(usual).filter(|_| attached.is_none());
        let (state, way) = if let Some(state) = fits(attached) {
            (state, Way::Reused)
        } else if let Some(state) = reattached {
            self.attach(actor, state);
            (state, Way::Reattached)
        } else {
            let state = self.new_state(of, Maker::Ensure);
            self.attach(actor, state);
            self.threads[actor].usual = Some(state);
            (state, Way::Created { outer: attached, usual })
        };
        self.interpreters[of].holds += usize::from(holds);
        let level = Level { state, way, holds, draft, dropped: Vec::new(), dropped_own: false };
        self.threads[actor].frames.push(Frame::Level(level));
    }

    fn undo(&mut self, actor: usize) -> Answer {
        match self.threads[actor].frames.pop()? {
            Frame::Saved(state) => {
                self.attach(actor, state);
                answer("restore", "-")
            }
            Frame::Swapped(state) => {
                self.attach(actor, state);
                answer("swap_back", "-")
            }
            Frame::Gilstate { was_attached } => {
                let state = self.threads[actor].attached.unwrap();
                self.states[state].gilstates -= 1;
                let made = self.states[state].made_by == Maker::Gilstate;
                if made && self.states[state].gilstates == 0 {
                    self.delete_attached(actor);
                } else if !was_attached {
                    self.threads[actor].attached = None;
                }
                answer("ungil", "-")
            }
            Frame::Level(level) => {
                self.release(actor, &level);
                answer(if level.draft { "draft_release" } else { "release" }, "-")
            }
        }
    }

    fn release(&mut self, actor: usize, level: &Level) {
        let of = self.states[level.state].interpreter;
        if let Way::Created { outer, usual } = level.way {
            self.delete_attached(actor);
            if !self.usual_is_last() {
                self.threads[actor].usual = usual;
            }
            if let Some(outer) = outer {
                self.attach(actor, outer);
            }
        } else {
            for frame in &level.dropped {
                if let Frame::Level(outer) = &mut self.threads[actor].frames[*frame] {
                    outer.holds = true;
                    self.interpreters[of].holds += 1;
                }
            }
            if level.dropped_own {
                self.states[level.state].holds = true;
                self.interpreters[of].holds += 1;
            }
            if level.way == Way::Reattached {
                self.threads[actor].attached = None;
            }
        }
        self.interpreters[of].holds -= usize::from(level.holds);
    }

    fn gil(&mut self, actor: usize) -> Answer {
        let Thread { attached, usual, .. } = self.threads[actor];
        if !self.is_up() || attached.is_some() && attached != usual {
            return None;
        }
        let state = match usual {
            Some(state) => state,
            None => self.new_state(0, Maker::Gilstate),
        };
        if attached.is_none() {
            self.attach(actor, state);
        }
        self.states[state].gilstates += 1;
        let frame = Frame::Gilstate { was_attached: attached.is_some() };
        self.threads[actor].frames.push(frame);
        answer("gil", "-")
    }

    // --- Daemon-ness -----------------------------------------------------------------------------

    /// Whether what is attached is its interpreter's main thread. `None`: nothing is, or CPython
    /// does not say: one that `PyGILState` made in the main thread.
    fn is_main(&self, actor: usize) -> Option<bool> {
        let state = &self.states[self.threads[actor].attached?];
        let unclear = state.made_by == Maker::Gilstate && actor == 0;
        (!unclear).then_some(state.made_by == Maker::Interpreter)
    }

    fn is_held(&self, actor: usize) -> bool {
        let thread = &self.threads[actor];
        let state = thread.attached.unwrap();
        let in_level = thread.levels().any(|(_, level)| level.state == state && level.holds);
        in_level || self.states[state].holds
    }

    fn hold(&mut self, actor: usize) {
        let state = self.threads[actor].attached.unwrap();
        let of = self.states[state].interpreter;
        self.interpreters[of].holds += 1;
        self.interpreters[of].used = true;
        match self.threads[actor].innermost() {
            Some(level) if level.state == state => level.holds = true,
            _ => self.states[state].holds = true,
        }
    }

    fn let_go(&mut self, actor: usize) {
        let state = self.threads[actor].attached.unwrap();
        let of = self.states[state].interpreter;
        let thread = &mut self.threads[actor];
        let holding: Vec<usize> = thread
            .levels()
            .filter(|(_, level)| level.state == state && level.holds)
            .map(|(depth, _)| depth)
            .collect();
        let innermost = thread.levels().last().map(|(depth, _)| depth);
        for depth in &holding {
            if let Frame::Level(level) = &mut thread.frames[*depth] {
                level.holds = false;
            }
        }
        let own = std::mem::take(&mut self.states[state].holds);
        self.interpreters[of].holds -= holding.len() + usize::from(own);
        if let Some(level) = thread.innermost().filter(|level| level.state == state) {
            level.dropped.extend(holding.into_iter().filter(|depth| Some(*depth) != innermost));
            level.dropped_own |= own;
        }
    }
}

impl Thread {
    fn levels(&self) -> impl Iterator<Item = (usize, &Level)> {
        self.frames.iter().enumerate().filter_map(|(depth, frame)| match frame {
            Frame::Level(level) => Some((depth, level)),
            _ => None,
        })
    }

    fn innermost(&mut self) -> Option<&mut Level> {
        self.frames.iter_mut().rev().find_map(|frame| match frame {
            Frame::Level(level) => Some(level),
            _ => None,
        })
    }
}

impl Frame {
    /// The thread state that it stands for; `None`: whichever `PyGILState` takes.
    fn state(&self) -> Option<usize> {
        match self {
            Frame::Level(level) => Some(level.state),
            Frame::Saved(state) | Frame::Swapped(state) => Some(*state),
            Frame::Gilstate { .. } => None,
        }
    }
}
