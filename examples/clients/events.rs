//! What `events.h` is for C++: four threads that call back until the process is over, and a count.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;
use std::time::Duration;

const THREADS: usize = 4;

static OVER: AtomicBool = AtomicBool::new(false);
static STARTED: AtomicUsize = AtomicUsize::new(0);
static RETURNED: AtomicUsize = AtomicUsize::new(0);
static RUNNING: AtomicUsize = AtomicUsize::new(0);

extern "C" {
    fn atexit(function: extern "C" fn()) -> std::ffi::c_int;
}

/// Starts four threads, which call `callback` again and again until the process is over.
pub fn start(callback: impl Fn() + Send + Sync + 'static) {
    let callback = Arc::new(callback);
    RUNNING.store(THREADS, SeqCst);
    // SAFETY: a function that may be called at any time.
    unsafe { atexit(report) };
    for _ in 0..THREADS {
        let callback = callback.clone();
        std::thread::spawn(move || {
            let mut pause = 0;
            while !OVER.load(SeqCst) {
                STARTED.fetch_add(1, SeqCst);
                callback();
                RETURNED.fetch_add(1, SeqCst);
                std::thread::sleep(Duration::from_micros(pause));
                pause = (pause + 377) % 2000;
            }
            RUNNING.fetch_sub(1, SeqCst);
        });
    }
}

/// At the end of the process, long after Python's: gives calls time to come back.
extern "C" fn report() {
    OVER.store(true, SeqCst);
    let patience = std::env::var("EVENTS_PATIENCE_MS").ok().and_then(|text| text.parse().ok());
    for _ in 0..patience.unwrap_or(100) {
        if RUNNING.load(SeqCst) == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let Some(log) = std::env::var_os("EVENTS_LOG") else { return };
    let lost = STARTED.load(SeqCst) - RETURNED.load(SeqCst);
    let file = std::fs::OpenOptions::new().append(true).create(true).open(log);
    let _ = file.and_then(|mut file| writeln!(file, "{} {lost}", STARTED.load(SeqCst)));
}
