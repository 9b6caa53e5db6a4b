//! A PyO3 module that calls Python from `std::thread`s.

#[path = "../../clients/events.rs"]
mod events;

use pep788::View;
use pyo3::prelude::*;

fn call(function: &Py<PyAny>) {
    Python::attach(|py| {
        if let Err(error) = function.call0(py) {
            error.write_unraisable(py, None);
        }
    });
}

#[pymodule]
mod client_pyo3 {
    use super::*;

    /// With `Python::attach` alone, which may crash, panic, or never come back.
    #[pyfunction]
    fn start_before(function: Py<PyAny>) {
        events::start(move || call(&function));
    }

    /// With PEP 788 around it.
    #[pyfunction]
    fn start(function: Py<PyAny>) {
        let view = View::current().expect("memory");
        events::start(move || match view.attach() {
            Some(_attached) => call(&function), // the exit waits for it
            None => {}                          // Python is exiting, or gone
        });
    }
}
