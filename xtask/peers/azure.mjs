// azure.mjs ENDPOINT ACCOUNT KEY COMMAND…: another client of Azure's blob store: makes the container `models`, or flips a bit of a
// blob in it.
import { BlobServiceClient, StorageSharedKeyCredential } from "@azure/storage-blob";

const [endpoint, account, key, command, name, at] = process.argv.slice(2);
const service = new BlobServiceClient(endpoint, new StorageSharedKeyCredential(account, key));
const models = service.getContainerClient("models");
if (command === "create") {
  await models.create();
} else {
  const blob = models.getBlockBlobClient(name);
  const data = await blob.downloadToBuffer();
  data[Number(at)] ^= 1;
  await blob.uploadData(data);
}
