//! Threads that are owned, in PyO3.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::prelude::*;

#[derive(Default)]
struct Threads {
    stops: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(&mut self, callback: Py<PyAny>, count: usize) {
        let callback = Arc::new(callback);
        for _ in 0..count {
            let (callback, stops) = (Arc::clone(&callback), Arc::clone(&self.stops));
            self.handles.push(std::thread::spawn(move || {
                while !stops.load(Ordering::Relaxed) {
                    // What it raises, as the interpreter ends, is nobody's.
                    Python::attach(|py| drop(callback.call0(py)));
                }
                // Its last reference may come back where nothing is attached.
                std::mem::forget(callback);
            }));
        }
        std::mem::forget(callback);
    }

    /// Not attached, which the threads may wait for.
    fn stop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        for handle in self.handles.drain(..) {
            let _ = handle.join();
        }
    }
}

static OWNER: Mutex<Option<Threads>> = Mutex::new(None);

extern "C" fn stop_at_exit() {
    if let Some(mut threads) = OWNER.lock().unwrap().take() {
        threads.stop();
    }
}

extern "C" {
    fn atexit(function: extern "C" fn()) -> i32;
}

#[pymodule]
mod owner_pyo3 {
    use super::*;

    #[pyclass]
    struct Owner(Threads);

    #[pymethods]
    impl Owner {
        #[new]
        fn new(callback: Py<PyAny>, count: usize) -> Owner {
            let mut threads = Threads::default();
            threads.start(callback, count);
            Owner(threads)
        }
    }

    impl Drop for Owner {
        fn drop(&mut self) {
            Python::attach(|py| py.detach(|| self.0.stop()));
        }
    }

    /// Joined after Python's end, unless they are stopped before.
    #[pyfunction]
    fn start(callback: Py<PyAny>, count: usize) {
        let mut threads = Threads::default();
        threads.start(callback, count);
        *OWNER.lock().unwrap() = Some(threads);
        // SAFETY: a function that takes nothing.
        unsafe { atexit(stop_at_exit) };
    }

    #[pyfunction]
    fn stop(py: Python<'_>) {
        py.detach(|| stop_at_exit());
    }

    #[pyfunction]
    fn detach_for_ever(py: Python<'_>) {
        loop {
            py.detach(|| std::thread::sleep(Duration::from_micros(20)));
        }
    }
}
