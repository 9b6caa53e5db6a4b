"""A scan of pyarrow over a file system that is written in Python, left half-way."""
# kind: E
# needs: pyarrow
# status: 7
# ends: a thread of Arrow's pool was ended while it opened a file, and the pool's destructor waits for its task
import os
import sys
import tempfile

import pyarrow
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet


class Handler(pyarrow.fs.FileSystemHandler):
    def __init__(self):
        self.local = pyarrow.fs.LocalFileSystem()

    def get_type_name(self):
        return "python"

    def normalize_path(self, path):
        return path

    def get_file_info(self, paths):
        return self.local.get_file_info(paths)

    def get_file_info_selector(self, selector):
        return self.local.get_file_info(selector)

    def open_input_file(self, path):
        return pyarrow.PythonFile(open(path, "rb"), mode="r")

    open_input_stream = open_input_file

    def not_needed(self, *arguments):
        raise NotImplementedError

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = not_needed
    delete_file = move = copy_file = open_output_stream = open_append_stream = not_needed


folder = tempfile.TemporaryDirectory()
for index in range(20):
    table = pyarrow.table({"a": list(range(20000))})
    pyarrow.parquet.write_table(table, os.path.join(folder.name, "%d.parquet" % index))
files = pyarrow.fs.PyFileSystem(Handler())
dataset = pyarrow.dataset.dataset(folder.name, filesystem=files, format="parquet")
next(iter(dataset.to_batches(batch_size=100)))
sys.exit(7)
