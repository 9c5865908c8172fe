"""A Parquet export, read without Ebbtide (issue 3, "What it must show", 6), by Apache Arrow's C++ reader.

    parquet_file.py FILE

reads every row group and checks that no user comes twice; prints {rows, groups, columns: {name: type}, first, last}, the
last two being the first and the last row. Needs pyarrow; `tools/setup test` makes a Python that has it.
"""

import json
import sys

import pyarrow.parquet as parquet


def plain(row):
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}


def main(path):
    file = parquet.ParquetFile(path)
    users, rows, first, last = set(), 0, None, None
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        table.validate(full=True)
        rows += table.num_rows
        users.update(table.column("user_id").to_pylist())
        if table.num_rows:
            first = first or plain(table.slice(0, 1).to_pylist()[0])
            last = plain(table.slice(table.num_rows - 1, 1).to_pylist()[0])
    if len(users) != rows or rows != file.metadata.num_rows:
        sys.exit(f"{rows} rows read, {file.metadata.num_rows} said to be there, of {len(users)} users")
    columns = {field.name: str(field.type) for field in file.schema_arrow}
    print(json.dumps({"rows": rows, "groups": file.num_row_groups, "columns": columns, "first": first, "last": last}))


main(sys.argv[1])
