# database.py FILE VERSION: a database of an application. In version 2, of 20,000
# rows 2 % are changed, 1 % removed and 3 % added, of 1,500 pictures 20 and 30;
# it is not vacuumed.
import random
import sqlite3
import sys

name, version = sys.argv[1], sys.argv[2]
r = random.Random(20261126)
words = ["".join(r.choice("abcdefghilmnoprstu") for _ in range(r.randint(3, 9))) for _ in range(4000)]


def text(low, high):
    return " ".join(r.choice(words) for _ in range(r.randint(low, high)))


def recipe(i):
    return (i, text(2, 4), r.randint(100, 9999) / 100, text(5, 40))


def picture(i):
    return (i, "/pictures/%05d.png" % i, bytes(r.getrandbits(8) for _ in range(r.randint(200, 3000))))


db = sqlite3.connect(name)
db.execute("pragma page_size = 4096")
db.execute("create table recipe (id integer primary key, name text, price real, steps text)")
db.execute("create index by_name on recipe (name)")
db.execute("create table picture (id integer primary key, path text unique, data blob)")
db.executemany("insert into recipe values (?, ?, ?, ?)", [recipe(i) for i in range(20000)])
db.executemany("insert into picture values (?, ?, ?)", [picture(i) for i in range(1500)])
db.commit()
if version == "2":
    for i in r.sample(range(20000), 400):
        db.execute("update recipe set price = ?, steps = ? where id = ?", (r.randint(100, 9999) / 100, text(5, 40), i))
    for i in r.sample(range(20000), 200):
        db.execute("delete from recipe where id = ?", (i,))
    db.executemany("insert into recipe values (?, ?, ?, ?)", [recipe(i) for i in range(20000, 20600)])
    for i in r.sample(range(1500), 20):
        db.execute("update picture set data = ? where id = ?", (picture(i)[2], i))
    db.executemany("insert into picture values (?, ?, ?)", [picture(i) for i in range(1500, 1530)])
    db.commit()
db.close()
