"""Writes events.golden: what TensorBoard 2.21's own record writer and messages make of the events below.

    python test/golden/tensorboard/make_events.py
"""
import os
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

scalar = lambda tag, value: summary_pb2.Summary.Value(tag=tag, simple_value=value)
summary = lambda *values: summary_pb2.Summary(value=values)
events = [
    event_pb2.Event(wall_time=1700000000.25, file_version='brain.Event:2'),
    event_pb2.Event(wall_time=1700000001.5, step=300, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)),
    event_pb2.Event(wall_time=1700000002.0, step=0, summary=summary(scalar('loss', 0.5))),
    event_pb2.Event(wall_time=1700000003.125, step=301, summary=summary(scalar('train/loss', 0.1), scalar('train/lr', 1e-5), scalar('zero', 0.0))),
    event_pb2.Event(wall_time=1700000004.0, step=2**40 + 7, summary=summary(scalar('größe/' + 'x' * 200, -3e38))),
]
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'events.golden'), 'wb') as f:
    writer = RecordWriter(f)
    for event in events: writer.write(event.SerializeToString())
    writer.flush()
