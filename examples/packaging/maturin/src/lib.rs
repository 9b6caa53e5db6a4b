//! A native thread calls a Python function until Python exits.

use pep788::View;
use pyo3::prelude::*;

#[pymodule]
mod example {
    use super::*;

    /// Has a native thread call the function until Python exits.
    #[pyfunction]
    fn start(function: Py<PyAny>) {
        let view = View::current().expect("memory");
        std::thread::spawn(move || {
            while let Some(_attached) = view.attach() {
                Python::attach(|py| {
                    if let Err(error) = function.call0(py) {
                        error.write_unraisable(py, None);
                    }
                });
            }
            // Python is gone; the function is not given back.
            std::mem::forget(function);
        });
    }
}
