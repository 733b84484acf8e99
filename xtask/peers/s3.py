"""Another client of an S3 store: makes the bucket `models`, or flips a bit of an object in it."""

import sys

import boto3

s3 = boto3.client("s3")
if sys.argv[1] == "create":
    s3.create_bucket(Bucket="models")
else:
    name, at = sys.argv[2], int(sys.argv[3])
    data = bytearray(s3.get_object(Bucket="models", Key=name)["Body"].read())
    data[at] ^= 1
    s3.put_object(Bucket="models", Key=name, Body=bytes(data))
